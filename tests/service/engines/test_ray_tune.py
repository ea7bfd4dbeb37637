from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from service.engines import ray_bridge
from service.engines.base import Assignment, Pruning
from service.engines.ray_tune import RayEngine
from service.errors import JobFailedError, OutdatedWorkerError
from service.spec.job import ResourcesSpec
from service.states import TrialState
from service.training.run import CurvePoint, Run
from service.version import versions
from tests.service.engines.contract import SILENCE_S, EngineContract, Make, Recorder, make_run, report_pid

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("shared_ray")]


@pytest.fixture
def make_engine() -> Make:
    return lambda train: RayEngine(train=train)


class TestRayEngine(EngineContract):
    @staticmethod
    def at_once(count: int) -> ResourcesSpec:
        return ResourcesSpec(max_concurrent=count)


def val_loss(points: Sequence[CurvePoint]) -> float:
    return points[-1].val_loss


def best_score(points: Sequence[CurvePoint]) -> float:
    return 1.0 - (points[-1].val_score or 0.0)


def scored_against_its_loss(run: Run) -> Iterator[CurvePoint]:
    """Eight points; the higher the seed, the lower the loss and the score."""
    for step in range(1, 9):
        yield CurvePoint(step, 0.0, 1.0 / (1 + run.seed), 0.1, None, 1.0 / (1 + run.seed))


def report_devices(folder: Path, run: Run) -> Iterator[CurvePoint]:
    """One point, once four runs are under way: the visible CUDA device."""
    (folder / f"run-{run.seed}").touch()
    while len(list(folder.glob("run-*"))) < 4:
        time.sleep(0.05)
    yield CurvePoint(1, float(os.environ["CUDA_VISIBLE_DEVICES"]), 0.0, 0.1)


def ranked(run: Run) -> Iterator[CurvePoint]:
    """Eight points; the loss is the seed's own at every step, so that a scheduler can tell them apart."""
    for step in range(1, 9):
        yield CurvePoint(step, 0.0, float(run.seed), 0.1)


def test_a_cluster_that_can_never_place_a_run_says_what_was_asked_and_what_it_has() -> None:
    resources = ResourcesSpec(custom={"accelerator_type:A100": 1.0}, memory_bytes=1 << 20)
    expected = r"accelerator_type:A100 1, memory 1 MiB; its nodes have: .*CPU 4, GPU 2"
    with pytest.raises(JobFailedError, match=expected):
        RayEngine(train=report_pid).run(Recorder(1), resources, SILENCE_S)


def test_four_runs_share_two_gpus_each_with_the_device_that_ray_gave_it(tmp_path: Path) -> None:
    work = Recorder(4)
    RayEngine(train=partial(report_devices, tmp_path)).run(work, ResourcesSpec(gpus_per_trial=0.5), SILENCE_S)
    assert work.peak == 4
    assert sorted(point.train_loss for _, point in work.points) == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_rays_scheduler_stops_runs_early_but_none_before_the_first_rung(
    pruner: Literal["asha", "hyperband", "median"],
) -> None:
    count = 12
    work = Recorder(0)
    work.waiting = [Assignment(key, replace(make_run(key), steps=8), 1) for key in range(count)]
    work.attempts = dict.fromkeys(range(count), 2)
    work.pruning = Pruning(pruner=pruner, steps=8, first_rung=2, reduction=2, startup_runs=5, signal=val_loss)
    RayEngine(train=ranked).run(work, ResourcesSpec(max_concurrent=2), SILENCE_S)
    states = {key: ended.state for key, ended in work.ended.items()}
    assert sorted(states) == list(range(count))
    # hyperband halves what its bracket has when all of it waits, and two at once seldom fill one
    expected = {TrialState.COMPLETE} if pruner == "hyperband" else {TrialState.COMPLETE, TrialState.PRUNED}
    assert expected <= set(states.values()) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert states[0] == TrialState.COMPLETE
    last = {key: point.step for key, point in work.points}
    assert all(step >= 2 for step in last.values())
    assert all((states[key] == TrialState.COMPLETE) == (step == 8) for key, step in last.items())
    repeats = [(key, point.step) for key, point in work.points]
    assert len(repeats) == len(set(repeats))


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_rays_scheduler_stops_no_run_that_must_not_be_stopped_and_stops_later_ones(
    pruner: Literal["asha", "median"],
) -> None:
    unprunable, count = 8, 20
    losses = [*range(unprunable), 0, 1, 2, 3, 4, 100, 101, 102, 103, 104, 105, 106]  # worse and worse in either part
    work = Recorder(0)
    work.waiting = [
        Assignment(key, replace(make_run(loss), steps=8), 1, prunable=key >= unprunable)
        for key, loss in enumerate(losses)
    ]
    work.attempts = dict.fromkeys(range(count), 2)
    work.pruning = Pruning(pruner=pruner, steps=8, first_rung=2, reduction=2, startup_runs=5, signal=val_loss)
    RayEngine(train=ranked).run(work, ResourcesSpec(max_concurrent=1), SILENCE_S)
    states = [work.ended[key].state for key in range(count)]
    assert states[:unprunable] == [TrialState.COMPLETE] * unprunable
    assert states[-5:] == [TrialState.PRUNED] * 5


def test_asha_on_ray_compares_later_runs_with_those_that_it_must_not_stop() -> None:
    count, unprunable = 14, 8
    losses = [*range(unprunable), 100, 101, 102, 103, 104, 105]  # every later one is worse than all before
    work = Recorder(0)
    work.waiting = [
        Assignment(key, replace(make_run(loss), steps=8), 1, prunable=key >= unprunable)
        for key, loss in enumerate(losses)
    ]
    work.attempts = dict.fromkeys(range(count), 2)
    work.pruning = Pruning(pruner="asha", steps=8, first_rung=2, reduction=2, startup_runs=5, signal=val_loss)
    RayEngine(train=ranked).run(work, ResourcesSpec(max_concurrent=1), SILENCE_S)
    states = [work.ended[key].state for key in range(count)]
    assert states == [TrialState.COMPLETE] * unprunable + [TrialState.PRUNED] * (count - unprunable)


def test_rays_scheduler_compares_runs_by_the_objective_and_not_by_their_loss() -> None:
    count = 12
    work = Recorder(0)
    work.waiting = [Assignment(key, replace(make_run(key), steps=8), 1) for key in range(count)]
    work.attempts = dict.fromkeys(range(count), 2)
    work.pruning = Pruning(pruner="asha", steps=8, first_rung=2, reduction=2, startup_runs=5, signal=best_score)
    RayEngine(train=scored_against_its_loss).run(work, ResourcesSpec(max_concurrent=1), SILENCE_S)
    states = [work.ended[key].state for key in range(count)]
    assert states == [TrialState.COMPLETE] + [TrialState.PRUNED] * (count - 1)


@pytest.mark.parametrize(
    ("updated", "error", "sentence"),
    [
        (False, JobFailedError, "a node of the Ray cluster has {}: install the versions of the worker there"),
        (True, OutdatedWorkerError, "the service was updated while this worker ran, and has {}: start the worker .*"),
    ],
)
def test_an_actor_with_other_versions_than_the_worker_does_no_run(
    monkeypatch: pytest.MonkeyPatch, updated: bool, error: type[Exception], sentence: str
) -> None:
    monkeypatch.setattr(ray_bridge, "versions", lambda: versions() | {"code": "0" * 12})
    monkeypatch.setattr(ray_bridge, "was_updated", lambda: updated)
    work = Recorder(1)
    other = f"other code of warptune ({versions()['code']} instead of 000000000000)"
    with pytest.raises(error, match=f"^{sentence.format(re.escape(other))}$"):
        RayEngine(train=report_pid).run(work, ResourcesSpec(), SILENCE_S)
    assert work.ended == {}


def test_an_actor_may_have_another_build_of_torch_as_on_a_node_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    other = versions() | {"torch": versions()["torch"].partition("+")[0] + "+cu130"}
    monkeypatch.setattr(ray_bridge, "versions", lambda: other)
    work = Recorder(1)
    RayEngine(train=report_pid).run(work, ResourcesSpec(), SILENCE_S)
    assert [ended.state for ended in work.ended.values()] == [TrialState.COMPLETE]
