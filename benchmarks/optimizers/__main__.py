# The command line: run what is missing, then report; or report from what is there.
"""Run the comparison of optimizers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna

from benchmarks.optimizers.arms import ARMS
from benchmarks.optimizers.plot import draw
from benchmarks.optimizers.pool import run_units
from benchmarks.optimizers.protocol import Budget
from benchmarks.optimizers.report import make_report, save_report, tables
from benchmarks.optimizers.tasks import TASKS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 if something failed, 130 if it was interrupted."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = _parser().parse_args(arguments)
    budget = Budget(trials=chosen.trials, seeds=chosen.seeds)
    tasks = [task for task in TASKS if task.name in chosen.tasks]
    arms = [arm for arm in ARMS if arm.name in chosen.arms]
    runs = chosen.out / "runs"
    failed: list[tuple[str, str]] = []
    if chosen.command == "run":
        names = [(task.name, arm.name) for task in tasks for arm in arms]
        try:
            failed = run_units(names, budget, runs, chosen.jobs)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
            return 130
    report, curves = make_report(tasks, arms, budget, runs)
    print(tables(report))
    save_report(report, chosen.out / "optimizers.json")
    draw(curves, chosen.out / "optimizers.png")
    for task, arm in failed:
        print(f"{task}, {arm} failed", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizers", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "report"), default="run")
    for name, known in (("tasks", TASKS), ("arms", ARMS)):
        names = [item.name for item in known]
        parser.add_argument(f"--{name}", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--trials", type=int, default=Budget.trials, help="tuning trials of every task and arm")
    parser.add_argument("--seeds", type=int, default=Budget.seeds, help="fresh seeds that confirm the best values")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once, one thread each")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of all files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
