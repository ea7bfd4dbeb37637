from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing.context import ForkProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from service import processes
from service.engines import local
from service.engines.base import Assignment, Train, attempt
from service.engines.local import LocalEngine, SlotRules, _device
from service.errors import JobFailedError
from service.spec.job import ResourcesSpec
from service.states import TrialState
from service.training.run import CurvePoint, Ended, Run
from tests.service.engines.contract import (
    SILENCE_S,
    EngineContract,
    HaltedAtAPoint,
    Recorder,
    exit_at_once,
    helper_of,
    is_alive,
    kill_this,
    report_pid,
    sleep,
)
from tests.service.faults import DiesWhileStarting

Make = Callable[[Train], LocalEngine]


PAUSES_S = (0.01, 0.02, 0.03, 0.04, 0.05)


def sleep_for_ever(run: Run) -> Iterator[CurvePoint]:
    time.sleep(600)
    yield CurvePoint(1, 0.0, 0.0, 0.1)


@pytest.fixture
def make_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    engines: list[LocalEngine] = []
    monkeypatch.setattr(local, "START_PAUSES_S", PAUSES_S)

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


@pytest.mark.parametrize(("runs", "slots"), [(0, 0), (2, 2), (5, 4)])
def test_no_more_slots_are_started_than_there_are_runs(make_engine: Make, runs: int, slots: int) -> None:
    engine, work = make_engine(slower), Recorder(runs)
    engine.run(work, ResourcesSpec(slots=4), SILENCE_S)
    assert len(work.ended) == runs
    assert len(engine.slot_pids) == len(slot_processes()) == slots


def test_a_job_of_two_runs_starts_two_of_sixteen_slots(make_engine: Make) -> None:
    engine, seen = make_engine(slower), list[int]()

    class Counting(Recorder):
        def progress(self, assignment: Assignment, point: CurvePoint) -> bool:
            seen.append(len(slot_processes()))
            return super().progress(assignment, point)

    engine.run(Counting(2), ResourcesSpec(slots=16), SILENCE_S)
    assert max(seen) == len(slot_processes()) == 2


def test_a_run_that_waits_for_a_slot_goes_to_the_first_that_is_free(make_engine: Make) -> None:
    engine = make_engine(report_pid)
    engine.run(Recorder(1), ResourcesSpec(), SILENCE_S)
    (pid,) = engine.slot_pids
    work = Recorder(12)
    engine.run(work, ResourcesSpec(slots=2), SILENCE_S)  # done before the second slot has loaded torch
    assert {int(point.train_loss) for _, point in work.points} >= {pid}
    assert work.begun == list(range(12))
    assert len(engine.slot_pids) <= 2


def test_slots_without_a_run_end_while_the_others_go_on(make_engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = make_engine(slower), list[int]()
    engine.run(Recorder(3), ResourcesSpec(slots=3), SILENCE_S)
    assert len(slot_processes()) == 3
    monkeypatch.setattr(local, "IDLE_S", 0.2)

    class Counting(Recorder):
        def progress(self, assignment: Assignment, point: CurvePoint) -> bool:
            seen.append(len(slot_processes()))
            return super().progress(assignment, point)

    engine.run(Counting(1), ResourcesSpec(slots=3), SILENCE_S)
    assert seen[-1] == len(slot_processes()) == 1


def test_between_jobs_one_slot_stays(make_engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(slower)
    engine.run(Recorder(3), ResourcesSpec(slots=3), SILENCE_S)
    engine.end_idle()
    assert len(slot_processes()) == 3
    monkeypatch.setattr(local, "IDLE_S", 0.0)
    engine.end_idle()
    engine.end_idle()
    assert len(slot_processes()) == len(engine.slot_pids) == 1


def slower(run: Run) -> Iterator[CurvePoint]:
    """Three points, with time for the other slots to start in between."""
    for point in report_pid(run):
        time.sleep(1.0)
        yield point


def slot_processes() -> list[psutil.Process]:
    """The slots among the children of this process."""
    children = psutil.Process().children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_a_slot_that_dies_is_replaced(make_engine: Make) -> None:
    engine = make_engine(exit_at_once)
    work = Recorder(1, attempts=2)
    engine.run(work, ResourcesSpec(), SILENCE_S)
    assert work.ended == {0: Ended(TrialState.FAILED, cause="its slot process ended with exit code 3")}
    assert (work.begun, engine.slot_pids) == ([0, 0], [])


def test_slots_that_die_while_they_have_nothing_to_do_cost_no_attempt(make_engine: Make) -> None:
    engine = make_engine(report_pid)
    engine.run(Recorder(6), ResourcesSpec(slots=2), SILENCE_S)
    pids = engine.slot_pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid) for pid in pids], timeout=5)
    work = Recorder(1, attempts=1)
    engine.run(work, ResourcesSpec(slots=2), SILENCE_S)
    assert work.ended[0].state == TrialState.COMPLETE
    assert work.begun == [0]
    assert not set(pids) & set(engine.slot_pids)


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


def test_pauses_grow_and_say_how_the_process_ended(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "CGROUPS", tmp_path / "nothing")
    work = Recorder(1)
    make_engine(DiesWhileStarting(str(tmp_path), 3, report_pid)).run(work, ResourcesSpec(), SILENCE_S)
    cause = "its slot process was killed (signal 9); often out of memory"
    assert work.delays == [(cause, pause_s) for pause_s in PAUSES_S[:3]]


def test_a_slot_that_cannot_start_leaves_the_work_to_the_others(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(DiesWhileStarting(str(tmp_path), 0, report_pid))
    engine.run(Recorder(1), ResourcesSpec(), SILENCE_S)
    engine._train = DiesWhileStarting(str(tmp_path), 1000, report_pid)
    work = Recorder(400)
    engine.run(work, ResourcesSpec(slots=2), SILENCE_S)
    assert len(work.ended) == 400
    assert len(engine.slot_pids) <= 2


def test_without_a_run_no_slot_is_waited_for(make_engine: Make, tmp_path: Path) -> None:
    work = Recorder(0)
    make_engine(DiesWhileStarting(str(tmp_path), 1000, report_pid)).run(work, ResourcesSpec(), SILENCE_S)
    assert work.delays == []


def test_halting_ends_a_pause_and_gives_the_waiting_run_back(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "START_PAUSES_S", (600.0,))

    class HaltedAtAPause(Recorder):
        def delayed(self, cause: str, pause_s: float) -> None:
            self.is_halted = True

    work = HaltedAtAPause(2)
    make_engine(DiesWhileStarting(str(tmp_path), 1000, report_pid)).run(work, ResourcesSpec(), SILENCE_S)
    assert (work.begun, work.stopped) == ([], [0])


def test_slots_that_are_replaced_keep_their_device(make_engine: Make) -> None:
    engine = make_engine(report_pid)
    engine.run(Recorder(4), ResourcesSpec(slots=2), SILENCE_S)
    first, second = engine._slots
    first.process.kill()
    first.process.join()
    engine.run(Recorder(8), ResourcesSpec(slots=2), SILENCE_S)
    while len(engine._slots) < 2:  # the other slot may do all the work before the new one has started
        engine.run(Recorder(8), ResourcesSpec(slots=2), SILENCE_S)
    assert sorted(slot.index for slot in engine._slots) == [0, 1]
    assert (second in engine._slots, second.index) == (True, 1)


def test_a_run_that_takes_too_much_memory_is_failed_once(make_engine: Make) -> None:
    work = Recorder(2, attempts=3)
    engine = make_engine(takes_memory)
    engine._rules = SlotRules(memory_bytes=700 << 20)
    engine.run(work, ResourcesSpec(), SILENCE_S)
    assert work.begun == [0, 1]
    assert all("out of memory: it took over 700 MiB" in str(ended.cause) for ended in work.ended.values())
    assert len(work.ended) == 2


def takes_memory(run: Run) -> Iterator[CurvePoint]:
    taken = b"x" * (800 << 20)
    time.sleep(600)
    yield CurvePoint(len(taken), 0.0, 0.0, 0.0)


def test_a_cause_has_no_folder_of_the_machine() -> None:
    (ended,) = attempt(raises_there, None)  # type: ignore[arg-type]
    assert isinstance(ended, Ended)
    assert 'File "tests/service/engines/test_local.py"' in str(ended.cause)
    assert str(Path(__file__).parent) not in str(ended.cause)


def raises_there(run: Run) -> Iterator[CurvePoint]:
    raise RuntimeError("it is broken")
    yield


PROCESSES: dict[str, type[BaseProcess]] = {"fork": ForkProcess, "spawn": SpawnProcess}


@pytest.mark.parametrize("name", [*PROCESSES, "command"])
def test_a_run_can_end_the_processes_that_it_has_started(make_engine: Make, name: str) -> None:
    work = Recorder(1)
    make_engine(partial(ends_a_process, name)).run(work, ResourcesSpec(), SILENCE_S)
    assert [point.train_loss for _, point in work.points] == [-signal.SIGTERM] * 3
    assert work.ended[0].state == TrialState.COMPLETE


def ends_a_process(name: str, run: Run) -> Iterator[CurvePoint]:
    """Start a process, terminate it at once and report its exit code, three times; 0 if it goes on."""
    for step in (1, 2, 3):
        if name == "command":
            command = subprocess.Popen(["sleep", "600"])
            command.terminate()
            exit_code = command.wait(60)
        else:
            process = PROCESSES[name](target=time.sleep, args=(600,))
            process.start()
            process.terminate()
            process.join(60)
            exit_code = process.exitcode or 0
            process.kill()
        yield CurvePoint(step, float(exit_code), 0.0, 0.0)


def test_a_slot_leaves_the_signals_that_stop_it_to_the_worker(make_engine: Make) -> None:
    work = Recorder(1)
    make_engine(signals_itself).run(work, ResourcesSpec(), SILENCE_S)
    assert work.begun == [0]
    assert work.ended[0].state == TrialState.COMPLETE


def signals_itself(run: Run) -> Iterator[CurvePoint]:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    yield from report_pid(run)


def test_a_process_that_a_run_has_forked_does_not_answer_for_it(make_engine: Make) -> None:
    work = Recorder(2)
    make_engine(forks).run(work, ResourcesSpec(), SILENCE_S)
    assert [(key, point.step) for key, point in work.points] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert {ended.state for ended in work.ended.values()} == {TrialState.COMPLETE}


def forks(run: Run) -> Iterator[CurvePoint]:
    """Fork a process that raises an error, wait for its end, and go on."""
    yield CurvePoint(1, 0.0, 0.0, 0.0)
    child = os.fork()
    if not child:
        raise RuntimeError("it is broken")
    os.waitpid(child, 0)
    yield CurvePoint(2, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_processes_of_a_run_do_not_hide_that_its_slot_has_died_and_end_with_it(
    make_engine: Make, name: str
) -> None:
    work = Recorder(1, attempts=1)
    make_engine(partial(starts_a_process, name, then=kill_this)).run(work, ResourcesSpec(), SILENCE_S)
    assert "was killed" in str(work.ended[0].cause)
    assert not is_alive(helper_of(work))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_slot_that_is_killed_takes_its_processes_with_it(make_engine: Make, name: str) -> None:
    work = HaltedAtAPoint(1)
    make_engine(partial(starts_a_process, name, then=sleep)).run(work, ResourcesSpec(), SILENCE_S)
    assert work.stopped == [0]
    assert not is_alive(helper_of(work))


def test_a_slot_whose_worker_is_gone_takes_its_processes_with_it(make_engine: Make) -> None:
    engine, work = make_engine(partial(starts_a_process, "fork", then=go_on)), Recorder(1)
    engine.run(work, ResourcesSpec(), SILENCE_S)
    (slot,) = engine._slots
    slot.connection.close()
    assert not is_alive(helper_of(work))
    assert not is_alive(engine.slot_pids[0])


def starts_a_process(name: str, run: Run, then: Callable[[], None]) -> Iterator[CurvePoint]:
    """One point: the id of a process that goes on. Then something happens to this one."""
    process = PROCESSES[name](target=time.sleep, args=(600,))
    process.start()
    yield CurvePoint(1, float(process.pid or 0), 0.0, 0.0)
    then()


def go_on() -> None:
    pass


def test_a_slot_that_has_run_code_of_a_user_does_no_run_of_other_code(make_engine: Make) -> None:
    engine = make_engine(report_pid)

    def pids(count: int, sha256: str | None) -> set[int]:
        work = Recorder(count)
        model = None if sha256 is None else {"name": "loop", "entrypoint": "own:train", "sha256": sha256, "config": {}}
        work.waiting = [replace(item, run=replace(item.run, model=model)) for item in work.waiting]
        engine.run(work, ResourcesSpec(slots=2), SILENCE_S)
        assert sorted(work.ended) == list(range(count))
        assert {ended.state for ended in work.ended.values()} == {TrialState.COMPLETE}
        return {int(point.train_loss) for _, point in work.points}

    before = pids(1, None)
    first = pids(1, "first")
    assert before == first == pids(1, "first")
    second = pids(6, "second")
    assert not first & second
    assert not (first | second) & pids(1, None)
    assert not any(is_alive(pid) for pid in first | second)
