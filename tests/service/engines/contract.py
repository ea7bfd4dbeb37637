# What every engine promises, as one test class; an engine's own file gives it `make_engine` and `at_once`.
from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from service.data.prepared import PreparedData
from service.engines.base import Assignment, Engine, Pruning, Train
from service.errors import JobFailedError
from service.spec.job import ResourcesSpec
from service.spec.tasks import Task
from service.states import TrialState
from service.training.run import CurvePoint, DivergedError, Ended, Run
from tests.service.faults import DiesWhileStarting

SILENCE_S = 120.0

Make = Callable[[Train], Engine]


def make_run(seed: int) -> Run:
    return Run(
        arm="warpadam",
        config={},
        sizes=(2, 1),
        activation="relu",
        task=Task.REGRESSION,
        data=PreparedData("", ""),
        steps=3,
        batch_size=1,
        seed=seed,
    )


def report_pid(run: Run) -> Iterator[CurvePoint]:
    """Three points; the training loss is the process id."""
    for step in (1, 2, 3):
        yield CurvePoint(step, float(os.getpid()), float(run.seed), 0.1)


def report_where(run: Run) -> Iterator[CurvePoint]:
    """One point: threads, and the index of the device."""
    yield CurvePoint(
        1, float(run.threads), float(run.device.removeprefix("cuda:")) if run.device != "cpu" else -1.0, 0.1
    )


def exit_at_once(run: Run) -> Iterator[CurvePoint]:
    os._exit(3)
    yield


def one_step_further_each_time(folder: str, run: Run) -> Iterator[CurvePoint]:
    """Repeat the points of the last attempt, reach one more, and die; the third attempt completes."""
    attempt = len(list(Path(folder).iterdir()))
    Path(folder, f"attempt-{attempt}").touch()
    for step in (1, 2, 3)[: attempt + 1]:
        yield CurvePoint(step, 0.0, 0.0, 0.1)
    if attempt < 2:
        os._exit(3)


def out_of_memory(run: Run) -> Iterator[CurvePoint]:
    raise MemoryError("no room")
    yield


def diverge(run: Run) -> Iterator[CurvePoint]:
    yield CurvePoint(1, 0.5, 0.5, 0.1)
    raise DivergedError("the training loss is nan after 2 of 3 steps")


def truncated(run: Run) -> Iterator[CurvePoint]:
    raise EOFError("the file is cut short")
    yield


def then_sleep_for_ever(run: Run) -> Iterator[CurvePoint]:
    yield CurvePoint(1, float(os.getpid()), 0.0, 0.1)
    time.sleep(600)


def starts_a_command(run: Run, then: Callable[[], None]) -> Iterator[CurvePoint]:
    """One point: the id of a process that goes on. Then something happens to this one."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})  # it closes no files
    yield CurvePoint(1, float(pid), 0.0, 0.0)
    then()


def kill_this() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    time.sleep(600)


def helper_of(work: Recorder) -> int:
    return int(work.points[0][1].train_loss)


def is_alive(pid: int) -> bool:
    """Tell whether there is a process of this id, after a moment for one that is being killed."""
    deadline = time.monotonic() + 20.0
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)
    return False


class Recorder:
    """A Work that hands out ``count`` runs and writes down what it is told."""

    def __init__(self, count: int, stop_after: int | None = None, attempts: int = 2) -> None:
        self.waiting = [Assignment(key, make_run(key), attempts - 1) for key in range(count)]
        self.attempts = dict.fromkeys(range(count), attempts)
        self.furthest = dict.fromkeys(range(count), 0)
        self.reached = dict.fromkeys(range(count), 0)
        self.delays: list[tuple[str, float]] = []
        self.pruning: Pruning | None = None
        self.points: list[tuple[int, CurvePoint]] = []
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
        self.reached[assignment.key] = 0
        self.peak = max(self.peak, len(self.begun) - len(self.ended))

    def progress(self, assignment: Assignment, point: CurvePoint) -> bool:
        self.points.append((assignment.key, point))
        self.reached[assignment.key] = point.step
        return point.step != self.stop_after

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        assert assignment.key not in self.ended
        self.ended[assignment.key] = ended

    def lost(self, assignment: Assignment, cause: str) -> bool:
        key = assignment.key
        self.attempts[key] -= self.reached[key] <= self.furthest[key]
        self.furthest[key] = max(self.furthest[key], self.reached[key])
        return self.attempts[key] > 0

    def delayed(self, cause: str, pause_s: float) -> None:
        self.delays.append((cause, pause_s))

    def interrupted(self, assignment: Assignment) -> None:
        self.stopped.append(assignment.key)

    def halted(self) -> bool:
        return self.is_halted


class HaltedAtAPoint(Recorder):
    """Is halted once a run has reached a point."""

    def progress(self, assignment: Assignment, point: CurvePoint) -> bool:
        self.is_halted = True
        return super().progress(assignment, point)


class Stalled(Recorder):
    """Is busy at its first point for longer than a run may be silent, as when its ledger is away for a moment."""

    def progress(self, assignment: Assignment, point: CurvePoint) -> bool:
        if not self.points:
            time.sleep(3.0)
        return super().progress(assignment, point)


class EngineContract:
    """Run for every engine; a subclass has the fixture ``make_engine``."""

    @staticmethod
    def at_once(count: int) -> ResourcesSpec:
        """Resources under which ``count`` runs go on at once."""
        raise NotImplementedError

    def test_every_run_is_done_once_in_few_processes(self, make_engine: Make) -> None:
        engine = make_engine(report_pid)
        work = Recorder(6)
        engine.run(work, self.at_once(2), SILENCE_S)
        assert sorted(work.begun) == sorted(work.ended) == list(range(6))
        assert {ended.state for ended in work.ended.values()} == {TrialState.COMPLETE}
        assert sorted((key, point.step, point.val_loss) for key, point in work.points) == [
            (key, step, float(key)) for key in range(6) for step in (1, 2, 3)
        ]
        assert len({point.train_loss for _, point in work.points}) <= 2
        assert work.peak <= 2
        assert work.stopped == []

    def test_one_at_a_time_they_are_done_in_their_order(self, make_engine: Make) -> None:
        work = Recorder(4)
        make_engine(report_pid).run(work, self.at_once(1), SILENCE_S)
        assert work.begun == list(work.ended) == [0, 1, 2, 3]
        assert [key for key, _ in work.points] == sorted([0, 1, 2, 3] * 3)
        assert work.peak == 1

    def test_a_run_that_is_told_to_stop_is_pruned_at_that_point(self, make_engine: Make) -> None:
        work = Recorder(2, stop_after=2)
        make_engine(report_pid).run(work, self.at_once(1), SILENCE_S)
        assert [point.step for _, point in work.points] == [1, 2, 1, 2]
        assert [(e.state, e.val_loss, e.seconds) for e in work.ended.values()] == [
            (TrialState.PRUNED, 0.0, 0.1),
            (TrialState.PRUNED, 1.0, 0.1),
        ]

    def test_a_run_whose_process_dies_is_started_again_while_it_may(self, make_engine: Make) -> None:
        work = Recorder(1, attempts=2)
        make_engine(exit_at_once).run(work, self.at_once(1), SILENCE_S)
        assert work.begun == [0, 0]
        assert list(work.ended) == [0]
        assert work.ended[0].state == TrialState.FAILED
        assert work.ended[0].cause

    def test_an_attempt_that_came_further_than_those_before_does_not_count(
        self, make_engine: Make, tmp_path: Path
    ) -> None:
        work = Recorder(1, attempts=1)
        make_engine(partial(one_step_further_each_time, str(tmp_path))).run(work, self.at_once(1), SILENCE_S)
        assert work.begun == [0] * 3
        assert work.ended[0].state == TrialState.COMPLETE

    def test_processes_that_die_while_they_start_are_replaced_and_no_run_pays_for_it(
        self, make_engine: Make, tmp_path: Path
    ) -> None:
        work = Recorder(2, attempts=1)
        make_engine(DiesWhileStarting(str(tmp_path), 2, report_pid)).run(work, self.at_once(1), SILENCE_S)
        assert work.begun == [0, 1]
        assert {ended.state for ended in work.ended.values()} == {TrialState.COMPLETE}
        assert len(work.delays) == 2

    def test_processes_that_never_start_end_the_job(self, make_engine: Make, tmp_path: Path) -> None:
        work = Recorder(1)
        with pytest.raises(JobFailedError, match=r"could start in 6 tries: \S"):
            make_engine(DiesWhileStarting(str(tmp_path), 1000, report_pid)).run(work, self.at_once(1), SILENCE_S)
        assert (work.begun, len(work.delays)) == ([], 5)
        assert len(list(tmp_path.iterdir())) == 6

    @pytest.mark.parametrize(
        ("train", "cause"),
        [(out_of_memory, "MemoryError: no room"), (truncated, "EOFError: the file is cut short")],
        ids=["memory", "end of file"],
    )
    def test_whatever_a_run_raises_is_its_cause_and_it_is_not_tried_again(
        self, make_engine: Make, train: Train, cause: str
    ) -> None:
        work = Recorder(1)
        make_engine(train).run(work, self.at_once(1), SILENCE_S)
        assert work.begun == [0]
        assert work.ended[0].state == TrialState.FAILED
        assert (work.ended[0].cause or "").startswith(cause)

    def test_a_run_that_diverges_keeps_its_last_finite_loss(self, make_engine: Make) -> None:
        work = Recorder(1)
        make_engine(diverge).run(work, self.at_once(1), SILENCE_S)
        cause = "the training loss is nan after 2 of 3 steps"
        assert work.ended == {0: Ended(TrialState.DIVERGED, 0.5, None, 0.1, cause)}

    def test_a_halted_work_is_not_begun(self, make_engine: Make) -> None:
        work = Recorder(3)
        work.is_halted = True
        make_engine(report_pid).run(work, self.at_once(1), SILENCE_S)
        assert (work.begun, work.ended) == ([], {})

    def test_halting_stops_a_busy_run(self, make_engine: Make) -> None:
        engine, work = make_engine(then_sleep_for_ever), HaltedAtAPoint(3)
        engine.run(work, self.at_once(1), SILENCE_S)
        assert (work.begun, work.stopped, work.ended) == ([0], [0], {})
        assert not is_alive(int(work.points[0][1].train_loss))

    def test_a_run_that_hangs_is_lost(self, make_engine: Make) -> None:
        work = Recorder(1, attempts=2)
        make_engine(then_sleep_for_ever).run(work, self.at_once(1), 0.5)
        assert work.begun == [0, 0, 0]  # the first attempt came further than any before, so it does not count
        assert work.ended == {0: Ended(TrialState.FAILED, cause="it made no progress for 0.5 seconds")}

    def test_a_run_whose_process_is_killed_or_dies_leaves_no_other_process(self, make_engine: Make) -> None:
        halted, dying = HaltedAtAPoint(1), Recorder(1, attempts=1)
        make_engine(partial(starts_a_command, then=sleep)).run(halted, self.at_once(1), SILENCE_S)
        make_engine(partial(starts_a_command, then=kill_this)).run(dying, self.at_once(1), SILENCE_S)
        assert (halted.stopped, dying.ended[0].state) == ([0], TrialState.FAILED)
        assert not is_alive(helper_of(halted))
        assert not is_alive(helper_of(dying))

    @pytest.mark.parametrize("method", ["started", "progress", "finished"])
    def test_what_the_work_raises_leaves_no_process_busy_with_it(
        self, make_engine: Make, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        engine = make_engine(report_pid)

        class BrokenError(Exception):
            pass

        def broken(*_: object) -> None:
            raise BrokenError

        work = Recorder(3)
        monkeypatch.setattr(work, method, broken)
        with pytest.raises(BrokenError):
            engine.run(work, self.at_once(1), SILENCE_S)
        after = Recorder(2)
        engine.run(after, self.at_once(1), SILENCE_S)
        assert sorted(after.ended) == [0, 1]
        assert len(after.points) == 6

    def test_a_run_is_not_silent_while_the_work_does_not_listen(self, make_engine: Make) -> None:
        work = Stalled(2)
        make_engine(report_pid).run(work, self.at_once(2), 2.0)
        assert sorted(work.begun) == [0, 1]
        assert {ended.state for ended in work.ended.values()} == {TrialState.COMPLETE}

    def test_threads_and_device_follow_the_resources(self, make_engine: Make) -> None:
        work = Recorder(1)
        resources = self.at_once(1).model_copy(update={"cpus_per_trial": 2})
        make_engine(report_where).run(work, resources, SILENCE_S)
        ((_, point),) = work.points
        assert (point.train_loss, point.val_loss) == (2.0, -1.0)

    def test_resources_that_are_not_there_end_the_job(self, make_engine: Make) -> None:
        work = Recorder(1)
        resources = self.at_once(1).model_copy(update={"gpus_per_trial": 7.0})
        with pytest.raises(JobFailedError, match=r"resources: .*7"):
            make_engine(report_pid).run(work, resources, SILENCE_S)
        assert work.begun == []
