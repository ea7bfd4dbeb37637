"""Measure how many seconds WarpAdam needs to reach AdamW's final loss, with both running side by side.

Run::

    python -m benchmarks.optimizers.seconds [--rounds 3] [--tasks NAME ...]

The runs of the main benchmark are hours apart, on a machine that also does other work, so their seconds do not compare
well. Here the tuned WarpAdam and the tuned AdamW take turns on every task, in one thread. The figures are WarpAdam's
divided by AdamW's: ``steps`` and ``seconds`` to AdamW's final loss (10 if never reached), and ``step_time``, the
seconds of the whole run. Results go to ``benchmarks/optimizers/results/seconds.json`` unless you pass ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.optimizers.arms import ADAMW, WARPADAM
from benchmarks.optimizers.measures import geometric_mean, median_curve, to_reach
from benchmarks.optimizers.protocol import FIRST_CONFIRM_SEED
from benchmarks.optimizers.tasks import DESIGN
from benchmarks.optimizers.training import Curve, Task

RESULTS: Final = Path(__file__).parent / "results"


def measure(task: Task, best: dict[str, Any], rounds: int) -> dict[str, float]:
    """Return the ratios for one task, from the median curves over ``rounds`` seeds.

    Args:
        task: The task.
        best: Tuned values of each arm, by its name.
        rounds: How often to run each arm.
    """
    curves: dict[str, list[Curve]] = {ADAMW.name: [], WARPADAM.name: []}
    for turn in range(rounds):
        for arm in (ADAMW, WARPADAM) if turn % 2 == 0 else (WARPADAM, ADAMW):
            curves[arm.name].append(task.run(arm, best[arm.name], FIRST_CONFIRM_SEED + turn))
    adamw, ours = median_curve(curves[ADAMW.name]), median_curve(curves[WARPADAM.name])
    steps, seconds = to_reach(ours, adamw.final, adamw)
    return {"steps": steps, "seconds": seconds, "step_time": ours.seconds[-1] / adamw.seconds[-1]}


def main() -> None:
    """Measure every task, print the ratios and save them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.optimizers.seconds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each arm on every task (default: %(default)s)")
    parser.add_argument(
        "--tasks", nargs="+", default=[task.name for task in DESIGN], metavar="NAME", help="tasks to run (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "seconds.json", help="file for the results (default: %(default)s)"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    tuned = json.loads((RESULTS / "optimizers.json").read_text())["tasks"]
    ratios = {}
    for task in DESIGN:
        if task.name in chosen.tasks:
            best = {arm.name: tuned[task.name][arm.name]["best"] for arm in (ADAMW, WARPADAM)}
            ratios[task.name] = measure(task, best, chosen.rounds)
            print(task.name, *(f"{name} {value:.3g}" for name, value in ratios[task.name].items()), flush=True)
    means = {name: geometric_mean(row[name] for row in ratios.values()) for name in ("steps", "seconds", "step_time")}
    print("geometric means", *(f"{name} {value:.3g}" for name, value in means.items()))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, 1 thread a run, load {os.getloadavg()[0]:.1f}"
    result = {"ratios_to_adamw": ratios, "geometric_means": means, "rounds": chosen.rounds, "machine": machine}
    chosen.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
