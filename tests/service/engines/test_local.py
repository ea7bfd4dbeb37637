from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from service.engines.base import Assignment
from service.engines.local import LocalEngine
from service.engines.slot import Train
from service.errors import JobFailedError
from service.schemas import ResourcesSpec
from service.states import TrialState
from service.training.catalog import Task
from service.training.run import Ended, Progress, Run

SILENCE_S = 60.0


def make_run(seed: int) -> Run:
    return Run(
        arm="warpadam",
        config={},
        sizes=(2, 1),
        activation="relu",
        task=Task.REGRESSION,
        data_url="",
        data_sha256="",
        steps=3,
        batch_size=1,
        schedule="constant",
        seed=seed,
    )


def report_pid(run: Run) -> Iterator[Progress]:
    """Three points; the training loss is the process id."""
    for step in (1, 2, 3):
        yield Progress(step, float(os.getpid()), float(run.seed), 0.1)


def report_where(run: Run) -> Iterator[Progress]:
    """One point: threads, and the index of the device."""
    yield Progress(1, float(run.threads), float(run.device.removeprefix("cuda:")) if run.device != "cpu" else -1.0, 0.1)


def exit_at_once(run: Run) -> Iterator[Progress]:
    os._exit(3)
    yield


def out_of_memory(run: Run) -> Iterator[Progress]:
    raise MemoryError("no room")
    yield


def sleep_for_ever(run: Run) -> Iterator[Progress]:
    time.sleep(600)
    yield Progress(1, 0.0, 0.0, 0.1)


def truncated(run: Run) -> Iterator[Progress]:
    raise EOFError("the file is cut short")
    yield


class Recorder:
    """A Work that hands out ``count`` runs and writes down what it is told."""

    def __init__(self, count: int, stop_after: int | None = None, attempts: int = 2) -> None:
        self.waiting = [Assignment(key, make_run(key)) for key in range(count)]
        self.attempts = dict.fromkeys(range(count), attempts)
        self.points: list[tuple[int, Progress]] = []
        self.ended: dict[int, Ended] = {}
        self.stopped: list[int] = []
        self.begun: list[int] = []
        self.peak = 0
        self.stop_after = stop_after
        self.is_halted = False

    def next(self) -> Assignment | None:
        return self.waiting.pop(0) if self.waiting else None

    def started(self, assignment: Assignment) -> None:
        self.begun.append(assignment.key)
        self.attempts[assignment.key] -= 1
        self.peak = max(self.peak, len(self.begun) - len(self.ended))

    def progress(self, assignment: Assignment, point: Progress) -> bool:
        self.points.append((assignment.key, point))
        return point.step != self.stop_after

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        assert assignment.key not in self.ended
        self.ended[assignment.key] = ended

    def lost(self, assignment: Assignment, cause: str) -> bool:
        if not self.attempts[assignment.key]:
            return False
        self.waiting.append(assignment)
        return True

    def interrupted(self, assignment: Assignment) -> None:
        self.stopped.append(assignment.key)

    def halted(self) -> bool:
        return self.is_halted


@pytest.fixture
def make_engine() -> Iterator[Callable[[Train], LocalEngine]]:
    engines: list[LocalEngine] = []

    def make(train: Train) -> LocalEngine:
        engines.append(LocalEngine(train))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


Make = Callable[[Train], LocalEngine]


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
        assert work.peak == 2
    engine.run(Recorder(1), ResourcesSpec(slots=1), SILENCE_S)
    assert len(engine.slot_pids) == 1


def test_a_run_that_is_told_to_stop_is_pruned_at_that_point(make_engine: Make) -> None:
    work = Recorder(2, stop_after=2)
    make_engine(report_pid).run(work, ResourcesSpec(), SILENCE_S)
    assert [point.step for _, point in work.points] == [1, 2, 1, 2]
    assert [(e.state, e.val_loss, e.seconds) for e in work.ended.values()] == [
        (TrialState.PRUNED, 0.0, 0.1),
        (TrialState.PRUNED, 1.0, 0.1),
    ]


def test_a_slot_that_dies_is_replaced_and_its_run_started_again_while_it_may(make_engine: Make) -> None:
    engine = make_engine(exit_at_once)
    work = Recorder(1, attempts=2)
    engine.run(work, ResourcesSpec(), SILENCE_S)
    assert work.begun == [0, 0]
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


def test_whatever_a_run_raises_is_its_cause(make_engine: Make) -> None:
    work = Recorder(1)
    make_engine(out_of_memory).run(work, ResourcesSpec(), SILENCE_S)
    cause = work.ended[0].cause
    assert work.ended[0].state == TrialState.FAILED
    assert cause is not None
    assert cause.startswith("MemoryError: no room")


def test_a_halted_work_is_not_begun(make_engine: Make) -> None:
    work = Recorder(3)
    work.is_halted = True
    make_engine(report_pid).run(work, ResourcesSpec(), SILENCE_S)
    assert (work.begun, work.ended) == ([], {})


def test_threads_and_device_follow_the_resources(make_engine: Make) -> None:
    work = Recorder(1)
    make_engine(report_where).run(work, ResourcesSpec(cpus_per_trial=2), SILENCE_S)
    ((_, point),) = work.points
    assert (point.train_loss, point.val_loss) == (2.0, -1.0)


def test_gpus_that_are_not_there_are_an_error_with_both_numbers(make_engine: Make) -> None:
    with pytest.raises(JobFailedError, match=r"2 slots x 0\.5 GPUs need 1 CUDA devices, this worker has 0"):
        make_engine(report_pid).run(Recorder(1), ResourcesSpec(slots=2, gpus_per_trial=0.5), SILENCE_S)


def test_a_run_that_hangs_is_lost_and_its_slot_replaced(make_engine: Make) -> None:
    work = Recorder(1, attempts=2)
    make_engine(sleep_for_ever).run(work, ResourcesSpec(), 0.5)
    assert work.begun == [0, 0]
    assert work.ended == {0: Ended(TrialState.FAILED, cause="it was silent for 0.5 seconds")}


@pytest.mark.parametrize("method", ["started", "progress", "finished"])
def test_what_the_work_raises_leaves_no_slot_busy_with_it(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    engine = make_engine(report_pid)

    class BrokenError(Exception):
        pass

    def broken(*_: object) -> None:
        raise BrokenError

    work = Recorder(3)
    monkeypatch.setattr(work, method, broken)
    with pytest.raises(BrokenError):
        engine.run(work, ResourcesSpec(slots=2), SILENCE_S)
    after = Recorder(2)
    engine.run(after, ResourcesSpec(slots=2), SILENCE_S)
    assert sorted(after.ended) == [0, 1]
    assert len(after.points) == 6


def test_an_end_of_file_inside_a_run_is_that_runs_cause(make_engine: Make) -> None:
    work = Recorder(1)
    make_engine(truncated).run(work, ResourcesSpec(), SILENCE_S)
    assert (work.ended[0].cause or "").startswith("EOFError: the file is cut short")


def test_close_leaves_no_process(make_engine: Make) -> None:
    engine = make_engine(report_pid)
    engine.run(Recorder(2), ResourcesSpec(slots=2), SILENCE_S)
    processes = [psutil.Process(pid) for pid in engine.slot_pids]
    engine.close()
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert alive == []
    assert engine.slot_pids == []
