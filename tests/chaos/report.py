"""Prints from a file that CHAOS_REPORT has named how many jobs have passed, by moment and victim."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from tests.chaos.points import MOMENTS, cells

COLUMNS: Final = {
    "worker": ("optuna", "worker"),
    "slot": ("optuna", "slot"),
    "slot while it starts": ("optuna", "slot while it starts"),
    "API": ("optuna", "api"),
    "database": ("optuna", "database"),
    "Ray: worker": ("ray", "worker"),
    "Ray: actor": ("ray", "slot"),
    "Ray: node": ("ray", "node"),
}


def table(passed: Counter[str]) -> str:
    """Return the table: the cells of each group, and the fewest jobs that passed in one of them.

    Args:
        passed: The number of jobs that passed, by the name of the cell.
    """
    lines = [f"| moment | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for moment in MOMENTS:
        row = []
        for engine, victim in COLUMNS.values():
            group = [c for c in cells() if (c.engine, c.victim, c.moment) == (engine, victim, moment)]
            row.append(f"{len(group)} x {min(passed[str(cell)] for cell in group)}" if group else "-")
        lines.append(f"| {moment} | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table and the totals."""
    runs = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    passed = Counter(run["cell"] for run in runs)
    print(table(passed))
    for name in ("sqlite, optuna", "postgresql, optuna", "sqlite, ray"):
        print(f"{name}: {sum(count for cell, count in passed.items() if cell.endswith(name))} jobs")
    seconds = [run["to_end_s"] for run in runs if run["to_end_s"] is not None]
    print(f"interrupted trials: {len(seconds)}, the slowest ended after {max(seconds):.1f} s")


if __name__ == "__main__":
    main()
