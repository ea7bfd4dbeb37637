"""Measure the seconds a sampler needs to ask for the next trial, as the number of finished trials grows.

Run::

    OMP_NUM_THREADS=1 python -m benchmarks.scale.asks [--sampler tpe] [--trials 500 1000 2000]

The study is in memory and holds made-up trials of the warpadam arm, as in a worker. ``wall`` is the time on the clock,
``processor`` the CPU time, which depends less on other load. Both are medians of nine asks. Results go to
``benchmarks/scale/results/asks-SAMPLER.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

import optuna

from benchmarks.scale.measures import make_spec
from search_spaces.to_optuna import suggest
from service.planning.arms import WARPADAM
from service.planning.plan import make_plan
from service.running.samplers import make_sampler

COMPLETE_SHARE: Final = 0.2
"""Share of trials that complete; the others are pruned. The pruner asha lets about this share complete."""

POINTS: Final = 5
"""Losses that each trial reports."""

ASKS: Final = 9


def seconds_of_an_ask(sampler: str, trials: int) -> dict[str, float]:
    """Return the median seconds of an ask after ``trials`` finished trials."""
    spec = make_spec(trials + ASKS, sampler, "asha")
    space = make_plan(spec).arm(WARPADAM).space
    draw = random.Random(0)  # noqa: S311
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(trials):
        trial, loss = study.ask(), draw.random()
        suggest(trial, space)
        for step in range(1, POINTS + 1):
            trial.report(loss, step)
        complete = draw.random() < COMPLETE_SHARE
        study.tell(trial, loss) if complete else study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    wall, processor = [], []
    for asked in range(ASKS):
        study.sampler = make_sampler(spec.search, f"0/{WARPADAM}", trials + asked)
        began, used = time.perf_counter(), time.process_time()
        trial = study.ask()
        suggest(trial, space)
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
        study.tell(trial, draw.random())
    return {"wall": round(statistics.median(wall), 4), "processor": round(statistics.median(processor), 4)}


def main() -> None:
    """Measure each number of trials, print the figures and save them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale.asks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sampler", default="tpe", choices=["tpe", "random"], help="default: %(default)s")
    parser.add_argument(
        "--trials",
        type=int,
        nargs="+",
        default=[500, 1_000, 2_000],
        help="numbers of finished trials (default: %(default)s)",
    )
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seconds = {}
    for trials in chosen.trials:
        seconds[str(trials)] = seconds_of_an_ask(chosen.sampler, trials)
        print(f"{trials} trials, seconds per ask:", json.dumps(seconds[str(trials)]), flush=True)
    result = {
        "sampler": chosen.sampler,
        "seconds_of_an_ask": seconds,
        "python": platform.python_version(),
        "optuna": version("optuna"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }
    output = Path(__file__).parent / "results" / f"asks-{chosen.sampler}.json"
    output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
