# How long one ask takes when a study has grown: a sampler over trials of the warpadam arm in memory, as the worker of a
# job has them. In seconds of the clock and of the processor, which another load on the machine does not change.
"""``python -m benchmarks.scale.asks``: seconds of an ask over a growing study."""

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
"""About what asha lets come to its end."""

POINTS: Final = 5
"""Reported losses of a trial."""

ASKS: Final = 9


def seconds_of_an_ask(sampler: str, trials: int) -> dict[str, float]:
    """Return the median seconds of an ask over ``trials`` ended trials."""
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
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale.asks", description=__doc__)
    parser.add_argument("--sampler", default="tpe", choices=["tpe", "random"], help="(%(default)s)")
    parser.add_argument("--trials", type=int, nargs="+", default=[500, 1_000, 2_000], help="(%(default)s)")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seconds = {}
    for trials in chosen.trials:
        seconds[str(trials)] = seconds_of_an_ask(chosen.sampler, trials)
        print(trials, json.dumps(seconds[str(trials)]), flush=True)
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
