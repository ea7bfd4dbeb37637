"""Measure what an empty trial costs: in our engines, and in the library that each engine is built on.

Run::

    python -m benchmarks.engine_overhead [--rounds 5] [--trials 60]

A trial reports one loss and ends, so all of its time is overhead. The variants take turns and run one trial at a time.
The first round is a warm-up and is not counted. ``benchmarks/engine_overhead.json`` gets the seconds per trial of each
variant (one figure per round, and the median):

- ``optuna``: plain Optuna, ask, report and tell. ``local_engine``: our engine ``optuna`` with ledger and Optuna.
- ``ray_tune_by_default``: Ray Tune, which writes results and its state to files. ``ray_tune``: with those files off.
- ``ray_engine``: our engine ``ray`` with ledger and Optuna. ``ray_engine_without_ledger``: with neither of them.

A ratio of 2 means that our engine takes twice as long per trial as the library does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # keeps Ray on loopback; Ray reads it on import

from ray import tune

from search_spaces.to_optuna import suggest
from service.artifacts import ArtifactStore
from service.data.prepared import PreparedData
from service.db.session import Database, create_schema
from service.db.studies import Studies
from service.engines.base import Assignment, Engine
from service.engines.local import LocalEngine
from service.engines.ray_tune import RayEngine, RaySession
from service.ledger import jobs, runs
from service.planning.plan import make_plan
from service.running.arm_search import ArmSearch
from service.running.context import JobContext
from service.spec.job import JobSpec, ResourcesSpec
from service.training.run import CurvePoint, Ended, Run

SILENCE_S = 600.0


def one_point(_: Run) -> Iterator[CurvePoint]:
    """Report one loss and end: an empty trial."""
    yield CurvePoint(1, 0.5, 0.5, 0.0)


class EmptyTrial(tune.Trainable):
    """The same empty trial, written for Ray Tune."""

    def step(self) -> dict[str, Any]:
        return {"val_loss": 0.5, "done": True}

    def reset_config(self, _: dict[str, Any]) -> bool:
        return True


class Clock(tune.Callback):
    """Notes when each Ray Tune trial ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, trial, info
        self.ends.append(time.perf_counter())


class TimedSearch(ArmSearch):
    """An arm search that notes when each trial ended."""

    ends: list[float]

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        super().finished(assignment, ended)
        self.ends.append(time.perf_counter())


def per_trial_s(ends: list[float]) -> float:
    """Return the mean seconds per trial. Counts from the end of the first trial, so starting processes is left out."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def search(folder: str, trials: int, engine_name: str) -> tuple[TimedSearch, Callable[[], None]]:
    """Create a ledger with one job; return the search of its first arm and a function that closes it."""
    url = f"sqlite:///{folder}/warptune.db"
    create_schema(url)
    db, studies = Database(url), Studies(url)
    spec = JobSpec.model_validate(
        {
            "dataset": {"name": "wine"},
            "model": {"name": "mlp", "hidden": [8]},
            "search": {"sampler": "random", "pruner": "none"},
            "engine": {"name": engine_name},
            "budget": {"trials_per_arm": trials, "steps": 1, "max_seconds": SILENCE_S},
        }
    )
    plan = make_plan(spec)
    with db.write() as session:
        jobs.add(session, spec, [arm.name for arm in plan.arms])
    taken = runs.claim(db, "benchmark", SILENCE_S)
    assert taken is not None
    job = JobContext(taken, plan, PreparedData("", ""), ArtifactStore(folder), lambda: False)
    work = TimedSearch(job, plan.arms[0], studies.open())
    work.ends = []

    def close() -> None:
        work.close()
        studies.close()
        db.close()

    return work, close


def through(engine: Engine, engine_name: str, trials: int) -> float:
    """Run empty trials on one of our engines, with ledger and Optuna; return the seconds per trial."""
    with tempfile.TemporaryDirectory() as folder:
        work, close = search(folder, trials, engine_name)
        resources = {"ray": {"max_concurrent": 1}, "optuna": {"slots": 1}}[engine_name]
        engine.run(work, type(work._plan.spec.resources).model_validate(resources), SILENCE_S)
        close()
    assert len(work.ends) == trials
    return per_trial_s(work.ends)


def plain_optuna(trials: int) -> float:
    """Ask, report and tell with plain Optuna, on the same space and storage; return the seconds per trial."""
    with tempfile.TemporaryDirectory() as folder:
        work, close = search(folder, trials, "optuna")
        study = optuna.create_study(study_name="plain", storage=work._arm_study._storage)
        ends = []
        for number in range(trials):
            study.sampler = optuna.samplers.RandomSampler(seed=number)
            trial = study.ask()
            suggest(trial, work._arm.space)
            trial.report(0.5, 1)
            study.tell(trial, 0.5)
            ends.append(time.perf_counter())
        close()
    return per_trial_s(ends)


def ray_by_default(trials: int) -> float:
    """Run empty trials on Ray Tune with its default settings: it writes results and its own state to files."""
    ours = {name: os.environ.pop(name) for name in ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_GLOBAL_CHECKPOINT_S")}
    try:
        return plain_ray(trials)
    finally:
        os.environ.update(ours)


class InMemory:
    """Hands out empty trials from memory, without ledger or Optuna."""

    pruning = None

    def __init__(self, like: Assignment, trials: int) -> None:
        self._waiting = [replace(like, key=key) for key in range(trials)]
        self.ends: list[float] = []

    def next(self) -> Assignment | None:
        return self._waiting.pop() if self._waiting else None

    def started(self, _: Assignment) -> None:
        """Do nothing."""

    def progress(self, *_: object) -> bool:
        return True

    def finished(self, *_: object) -> None:
        self.ends.append(time.perf_counter())

    def lost(self, *_: object) -> bool:
        return False

    def delayed(self, *_: object) -> None:
        """Do nothing."""

    def interrupted(self, _: Assignment) -> None:
        """Do nothing."""

    def halted(self) -> bool:
        return False


def without_ledger(engine: Engine, trials: int) -> float:
    """Run empty trials on the engine ``ray`` without ledger and Optuna; return the seconds per trial."""
    with tempfile.TemporaryDirectory() as folder:
        work, close = search(folder, 1, "ray")
        assignment = work.next()
        close()
    assert assignment is not None
    bare = InMemory(assignment, trials)
    engine.run(bare, ResourcesSpec(max_concurrent=1), SILENCE_S)
    return per_trial_s(bare.ends)


def plain_ray(trials: int) -> float:
    """Run empty trials on Ray Tune without those files, one at a time in a reused actor."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(EmptyTrial, {"cpu": 1}),
            tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True, max_concurrent_trials=1),
            run_config=tune.RunConfig(
                name="plain",
                storage_path=folder,
                callbacks=[clock],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    assert len(clock.ends) == trials
    return per_trial_s(clock.ends)


def main() -> None:
    """Measure every variant, print the figures and save them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=60, help="trials per round and variant (default: %(default)s)")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    session = RaySession(None)
    session.connect()
    local, ray = LocalEngine(one_point), RayEngine(train=one_point)
    measured: dict[str, Callable[[], float]] = {
        "optuna": lambda: plain_optuna(given.trials),
        "local_engine": lambda: through(local, "optuna", given.trials),
        "ray_tune": lambda: plain_ray(given.trials),
        "ray_tune_by_default": lambda: ray_by_default(given.trials),
        "ray_engine_without_ledger": lambda: without_ledger(ray, given.trials),
        "ray_engine": lambda: through(ray, "ray", given.trials),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for turn in range(given.rounds + 1):
        for name, measure in measured.items():
            figure = measure()
            if turn:  # the first round is a warm-up
                seconds[name].append(figure)
                print(f"{name:25} {figure * 1000:8.1f} ms per trial", flush=True)
    local.close()
    ray.close()
    session.close()
    median = {name: statistics.median(figures) for name, figures in seconds.items()}
    ratios = {
        "local_engine_to_optuna": median["local_engine"] / median["optuna"],
        "ray_engine_to_ray_tune_by_default": median["ray_engine"] / median["ray_tune_by_default"],
        "ray_engine_to_ray_tune": median["ray_engine"] / median["ray_tune"],
        "ray_engine_without_ledger_to_ray_tune": median["ray_engine_without_ledger"] / median["ray_tune"],
    }
    result = {
        "seconds_per_trial": seconds,
        "median": median,
        "ratios": ratios,
        "trials": given.trials,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": {name: version(name) for name in ("ray", "optuna", "sqlalchemy", "warptune")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
