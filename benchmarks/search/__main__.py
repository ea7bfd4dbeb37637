"""Trains the dense tables, repeats searches and verdicts on them, and prints what came out."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.search import live
from benchmarks.search.dense import file_of, make
from benchmarks.search.searches import BEFORE, PEERS, DenseTable, regrets
from benchmarks.search.tables import TABLES
from benchmarks.search.verdicts import FACTORS, LARGE, against_truth, words
from service.result.job_result import Word

RESULTS: Final = Path(__file__).parent / "results.json"
ARMS: Final = ("adamw", "warpadam")
SEARCHES: Final = ("ours", "ours, no race", BEFORE, *PEERS)


def main() -> None:
    """Run the command of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("dense", "report", "live"), default="report")
    parser.add_argument("--part", choices=tuple(TABLES), default="judge", help="which tables (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=48, help="searches on each table (default: %(default)s)")
    parser.add_argument("--kind", choices=tuple(live.OVERRIDES), default="equal", help="arms of live jobs")
    parser.add_argument("--jobs", type=int, default=204, help="live jobs (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="steps of a run in live jobs (default: %(default)s)")
    given = parser.parse_args()
    tables = TABLES[given.part]
    if given.command == "live":
        live.run(given.part, given.kind, given.jobs, given.steps)
        print(live.summary(live.stored(given.part, given.kind, given.steps)))
        return
    if given.command == "dense":
        for name, load in tables.items():
            for arm in ARMS:
                if not file_of(name, arm).exists():
                    make(name, load(), arm)
                    print(f"{name} {arm}: made", flush=True)
        return
    there = {arm: [name for name in tables if file_of(name, arm).exists()] for arm in ARMS}
    found: dict[str, Any] = {arm: _regret(there[arm], arm, given.repeats) for arm in ARMS}
    found["verdicts"] = _verdicts(there["adamw"], given.repeats)
    found["against truth"] = _against_truth([name for name in there["adamw"] if name in there["warpadam"]])
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | {given.part: found}, indent=1) + "\n")


def _regret(names: list[str], arm: str, repeats: int) -> dict[str, Any]:
    """Print and return median and 90th percentile of the regret of each search, over all tables."""
    print(f"\n{arm}: regret in % over {len(names)} tables x {repeats} searches ({', '.join(names)})")
    tables, found = [DenseTable(name, arm) for name in names], {}
    for one in SEARCHES:
        by_table = {table.name: regrets(table, one, repeats) for table in tables}
        together = np.concatenate(list(by_table.values()))
        found[one] = {
            "median": round(float(np.median(together)), 2),
            "p90": round(float(np.quantile(together, 0.9)), 2),
            "medians": {name: round(float(np.median(values)), 2) for name, values in by_table.items()},
        }
        print(f"  {one:14} median {found[one]['median']:6.2f}   90 % {found[one]['p90']:6.2f}", flush=True)
    return found


def _verdicts(names: list[str], repeats: int) -> dict[str, Any]:
    """Print and return how often each word is said of two arms, by how much better the second one is."""
    print(f"\nAdamW against AdamW, {repeats} pairs of searches on each of {len(names)} tables")
    found: dict[str, Any] = {}
    tables = [DenseTable(name, "adamw") for name in names]
    large = [table for table in tables if table.rows >= LARGE]
    for title, chosen, with_luck in (
        ("without luck", tables, False),
        ("with luck", tables, True),
        (f"with luck, {LARGE} rows or more", large, True),
    ):
        total: dict[float, Counter[Word]] = {factor: Counter() for factor in FACTORS}
        for table in chosen:
            for factor, counts in words(table, repeats, with_luck=with_luck).items():
                total[factor] += counts
        found[title] = {
            f"{factor:g}": {word: round(100 * counts[word] / counts.total(), 1) for word in Word}
            for factor, counts in total.items()
        }
        for factor, shares in found[title].items():
            print(f"  {title:29} x{factor:5} " + "  ".join(f"{word} {share:5.1f} %" for word, share in shares.items()))
    return found


def _against_truth(names: list[str]) -> dict[str, int]:
    """Print and return how often a verdict agrees with the truth of the grids, where that is clear."""
    print(f"\nWarpAdam against AdamW on {len(names)} tables, three splits each: word said, where the truth is clear")
    total = Counter[str]()
    for name in names:
        said = against_truth(DenseTable(name, "adamw"), DenseTable(name, "warpadam"))
        total += Counter(said)
        print(f"  {name:14} {', '.join(said) or 'the truth is not clear'}")
    print("  " + ", ".join(f"{words} {count}" for words, count in total.items()))
    return dict(total)


if __name__ == "__main__":
    main()
