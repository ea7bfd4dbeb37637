"""Measure arms on families, and print their losses divided by those of the better SOAP.

Run::

    python -m benchmarks.few_shot [design] [judging] [--arm NAME ...] [--report]

Results go to ``design.jsonl`` and ``judging.jsonl``, line by line. A run that was stopped goes on where it was; delete
the lines that you want to measure again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.few_shot.arms import ARMS, SOAPS
from benchmarks.few_shot.families import DESIGN, JUDGING
from benchmarks.few_shot.measure import measure, ratios, read, rows_of

PARTS = {"design": DESIGN, "judging": JUDGING}


def main() -> None:
    """Measure what is missing and print a table for each family."""
    parser = argparse.ArgumentParser(prog="benchmarks.few_shot")
    parser.add_argument("parts", nargs="*", metavar="PART", help="design or judging; both if none is given")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="measure only this arm; may be repeated")
    parser.add_argument("--report", action="store_true", help="measure nothing, only print what the files hold")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts or PARTS:
        if part not in PARTS:
            parser.error(f"part: got {part!r}, expected design or judging")
        path = Path(__file__).with_name(f"{part}.jsonl")
        for family in PARTS[part]:
            for name in [] if given.report else given.arm or ARMS:
                measure(path, name, ARMS[name], family)
            show(path, family)


def show(path: Path, family: str) -> None:
    """Print the ratios of a family, as the rows of a table."""
    rows = rows_of(read(path), family)
    if not rows.keys() >= set(SOAPS):
        return
    for arm, shares in ratios(rows).items():
        print(f"| {family} | {arm} | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
