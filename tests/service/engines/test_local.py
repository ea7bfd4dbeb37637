from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from service.engines.attempt import Train
from service.engines.local import LocalEngine, _device
from service.errors import JobFailedError
from service.spec.job import ResourcesSpec
from service.states import TrialState
from service.training.run import CurvePoint, Ended, Run
from tests.service.engines.contract import SILENCE_S, EngineContract, Recorder, exit_at_once, report_pid

Make = Callable[[Train], LocalEngine]


def sleep_for_ever(run: Run) -> Iterator[CurvePoint]:
    time.sleep(600)
    yield CurvePoint(1, 0.0, 0.0, 0.1)


@pytest.fixture
def make_engine() -> Iterator[Make]:
    engines: list[LocalEngine] = []

    def make(train: Train) -> LocalEngine:
        engines.append(LocalEngine(train))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


class TestLocalEngine(EngineContract):
    @staticmethod
    def at_once(count: int) -> ResourcesSpec:
        return ResourcesSpec(slots=count)


def test_slots_are_spawned_once_and_reused_for_run_after_run_and_job_after_job(make_engine: Make) -> None:
    engine = make_engine(report_pid)
    first, second = Recorder(6), Recorder(6)
    engine.run(first, ResourcesSpec(slots=2), SILENCE_S)
    pids = set(engine.slot_pids)
    engine.run(second, ResourcesSpec(slots=2), SILENCE_S)
    assert len(pids) == 2
    assert set(engine.slot_pids) == pids
    for work in (first, second):
        assert {ended.state for ended in work.ended.values()} == {TrialState.COMPLETE}
        assert len(work.ended) == 6
        assert {int(point.train_loss) for _, point in work.points} <= pids
    assert second.peak <= 2
    engine.run(Recorder(1), ResourcesSpec(slots=1), SILENCE_S)
    assert len(engine.slot_pids) == 1


def test_a_slot_that_dies_is_replaced(make_engine: Make) -> None:
    engine = make_engine(exit_at_once)
    work = Recorder(1, attempts=2)
    engine.run(work, ResourcesSpec(), SILENCE_S)
    assert work.ended == {0: Ended(TrialState.FAILED, cause="its slot process ended with exit code 3")}
    assert len(engine.slot_pids) == 1


def test_a_slot_killed_from_outside_between_two_runs_costs_no_result(make_engine: Make) -> None:
    engine = make_engine(report_pid)
    engine.run(Recorder(1), ResourcesSpec(), SILENCE_S)
    (pid,) = engine.slot_pids
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)], timeout=5)
    work = Recorder(2)
    engine.run(work, ResourcesSpec(), SILENCE_S)
    assert {ended.state for ended in work.ended.values()} == {TrialState.COMPLETE}
    assert pid not in engine.slot_pids


def test_gpus_that_are_not_there_are_an_error_with_both_numbers(make_engine: Make) -> None:
    with pytest.raises(JobFailedError, match=r"2 slots x 0\.5 GPUs need 1 CUDA devices, this worker has 0"):
        make_engine(report_pid).run(Recorder(1), ResourcesSpec(slots=2, gpus_per_trial=0.5), SILENCE_S)


@pytest.mark.parametrize(
    ("amount", "devices"),
    [
        (1, [0, 1, 2, 3]),
        (2, [0, 2, 4, 6]),
        (0.5, [0, 0, 1, 1]),
        (0.25, [0, 0, 0, 0]),
        (0.4, [0, 0, 1, 1]),  # a third would make 1.2 of a device
        (0.6, [0, 1, 2, 3]),
    ],
)
def test_slots_share_a_device_only_as_far_as_it_goes(amount: float, devices: list[int]) -> None:
    resources = ResourcesSpec(slots=4, gpus_per_trial=amount)
    here = max(devices) + max(1, int(amount))
    assert [_device(slot, resources, here) for slot in range(4)] == [f"cuda:{device}" for device in devices]
    with pytest.raises(JobFailedError, match=f"need {here} CUDA devices, this worker has {here - 1}"):
        _device(0, resources, here - 1)


def test_a_run_that_hangs_before_its_first_point_is_lost_and_its_slot_replaced(make_engine: Make) -> None:
    work = Recorder(1, attempts=2)
    make_engine(sleep_for_ever).run(work, ResourcesSpec(), 0.5)
    assert work.begun == [0, 0]
    assert work.ended == {0: Ended(TrialState.FAILED, cause="it made no progress for 0.5 seconds")}


def test_close_leaves_no_process(make_engine: Make) -> None:
    engine = make_engine(report_pid)
    engine.run(Recorder(2), ResourcesSpec(slots=2), SILENCE_S)
    processes = [psutil.Process(pid) for pid in engine.slot_pids]
    engine.close()
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert alive == []
    assert engine.slot_pids == []
