"""Compare WarpAdam with other optimizers, all tuned with the same budget on the same tasks.

Run::

    python -m benchmarks.optimizers                   # run what is missing of the design part, then report
    python -m benchmarks.optimizers report            # report only
    python -m benchmarks.optimizers --part judging    # the judging part: once for each release

You can stop a run with Ctrl-C; the same command continues it. The report is printed and saved as ``optimizers.json``
and ``optimizers.png`` in the results folder. README.md explains the figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import optuna

from benchmarks.optimizers.arms import ARMS
from benchmarks.optimizers.plot import draw
from benchmarks.optimizers.pool import run_units
from benchmarks.optimizers.protocol import Budget
from benchmarks.optimizers.report import make_report, save_report, tables
from benchmarks.optimizers.tasks import PARTS, TASKS

_RESULTS = Path(__file__).parent / "results"
RESULTS: Final = {"design": _RESULTS, "judging": _RESULTS / "judging"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if a task and arm failed, or 130 after Ctrl-C."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = _parser().parse_args(arguments)
    budget = Budget(trials=chosen.trials, seeds=chosen.seeds, sweeps=not chosen.no_sweep)
    tasks = [task for task in TASKS if task.name in chosen.tasks] if chosen.tasks else PARTS[chosen.part]
    out = chosen.out or RESULTS[chosen.part]
    arms = [arm for arm in ARMS if arm.name in chosen.arms]
    runs = out / "runs"
    failed: list[tuple[str, str]] = []
    if chosen.command == "run":
        names = [(task.name, arm.name) for task in tasks for arm in arms]
        try:
            failed = run_units(names, budget, runs, chosen.jobs)
        except KeyboardInterrupt:
            print("Interrupted. Run the same command again to continue.", file=sys.stderr)
            return 130
    report, curves = make_report(tasks, arms, budget, runs)
    print(tables(report))
    save_report(report, out / "optimizers.json")
    draw(curves, out / "optimizers.png")
    for task, arm in failed:
        print(f"{task}, {arm} failed; see its messages above", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.optimizers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=("run", "report"), default="run", help="default: run")
    parser.add_argument("--part", choices=tuple(PARTS), default="design", help="tasks to run (default: %(default)s)")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=[task.name for task in TASKS],
        metavar="NAME",
        help=f"only these tasks, of any part: {', '.join(task.name for task in TASKS)}",
    )
    arms = [arm.name for arm in ARMS]
    parser.add_argument(
        "--arms", nargs="+", choices=arms, default=arms, metavar="NAME", help=f"default: all of {', '.join(arms)}"
    )
    parser.add_argument(
        "--trials", type=int, default=Budget.trials, help="tuning trials for each task and arm (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=Budget.seeds,
        help="fresh seeds to confirm the best values on (default: %(default)s)",
    )
    parser.add_argument("--no-sweep", action="store_true", help="leave out the sweep of the lr")
    parser.add_argument(
        "--jobs", type=int, default=2, help="processes at once, with one thread each (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder for results (default: results, or results/judging)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
