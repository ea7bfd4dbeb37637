"""The engine for one machine, which does runs in slot processes.

Slots are spawned once and reused for all runs of all jobs, because a new process must load torch. They keep no state
between runs: a slot that dies or hangs costs one attempt at one run. :func:`serve` is the inside of a slot; everything
else runs in the worker's main thread.
"""

from __future__ import annotations

import atexit
import logging
import math
import multiprocessing
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection as mp_connection
from typing import Final, NamedTuple

from service import logs
from service.engines.base import (
    Assignment,
    Train,
    Work,
    attempt,
    default_train,
    ended_at,
    runs_per_gpu,
    silence,
)
from service.errors import JobFailedError
from service.processes import how_it_ended, memory_bytes, oom_kills
from service.settings import LogSettings
from service.spec.job import ResourcesSpec
from service.states import TrialState
from service.training.run import CurvePoint, Ended, Run

log = logging.getLogger(__name__)

TICK_S: Final = 0.2
"""Longest time between two questions whether everything must stop."""

GRACE_S: Final = 0.8
"""Time that a run gets to reach its next point before its process is killed. Together with TICK_S and the worker's
poll_s it stays below the two seconds within which a cancelled job must stop."""

START_LIMIT_S: Final = 300.0
"""Longest time that a slot may take to load torch."""

START_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses after slots that could not start. If one more cannot and no other slot is left, the job fails."""

LAST_WORDS_S: Final = 1.0
"""Time that a process whose pipe is closed gets to end by itself, so that its exit code is its own."""


class SlotReady(NamedTuple):
    """The first message of a slot: it has loaded torch and waits for a run."""

    cuda_devices: int


class SlotTask(NamedTuple):
    """A run for a slot, and what the log lines about it say."""

    run: Run
    facts: Mapping[str, object]


def serve(connection: mp_connection.Connection, train: Train) -> None:
    """Do runs until the worker closes its end of ``connection`` or dies: the main function of a slot process.

    The slot sends :class:`SlotReady` once. For each run it then sends :class:`CurvePoint` messages, which the worker
    answers with whether to continue, and one :class:`Ended`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches slots too, but the worker decides when they stop
    logs.configure(LogSettings())
    multiprocessing.set_start_method(None, force=True)  # user code starts processes as it would elsewhere, not as we do
    import torch

    devices = torch.cuda.device_count()
    with suppress(EOFError, OSError):  # of the connection: the worker has gone. attempt() lets no error of a run out.
        connection.send(SlotReady(devices))
        while True:
            connection.send(_execute(connection, train, connection.recv()))


def _execute(connection: mp_connection.Connection, train: Train, task: SlotTask) -> Ended:
    with logs.about(**task.facts):
        log.debug("run started", extra={"arm": task.run.arm, "steps": task.run.steps})
        ended = _attempt(connection, train, task.run)
        log.debug("run ended", extra={"state": str(ended.state), "seconds": ended.seconds, "cause": ended.cause})
    return ended


def _attempt(connection: mp_connection.Connection, train: Train, run: Run) -> Ended:
    for event in attempt(train, run):
        if isinstance(event, Ended):
            return event
        connection.send(event)
        if not connection.recv():
            return ended_at(event, TrialState.PRUNED)
    raise AssertionError("an attempt ends with Ended")


class _Slot:
    """The worker's side of one slot process. ``index`` says which devices are its own."""

    def __init__(self, train: Train, index: int) -> None:
        self.index, self._oom_kills = index, oom_kills()
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # not a daemon, which could start no processes, such as those of a DataLoader in a training loop of the user's
        self.process = context.Process(target=serve, args=(theirs, train), name="warptune-slot")
        self.process.start()
        theirs.close()  # only the slot holds that end now, so its death closes the pipe
        self.ready: SlotReady | None = None
        self.assignment: Assignment | None = None
        self.heard = time.monotonic()

    def send(self, message: SlotTask | bool) -> bool:
        """Send a message; return False if the process is gone."""
        try:
            self.connection.send(message)
        except OSError:
            return False
        self.heard = time.monotonic()  # its silence starts now
        return True

    def receive(self) -> SlotReady | CurvePoint | Ended | None:
        """Return the next message; None if the process is gone."""
        self.heard = time.monotonic()
        try:
            message: SlotReady | CurvePoint | Ended = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def silent_s(self) -> float:
        """Return the seconds since the last message in either direction."""
        return time.monotonic() - self.heard

    def ending(self) -> str:
        """Wait for the end of a process that has closed its pipe, and say how it ended."""
        self.process.join(LAST_WORDS_S)
        return how_it_ended(self.process.exitcode, self._oom_kills)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class LocalEngine:
    """Does the runs of a Work in ``resources.slots`` processes.

    Args:
        train: Does a run; an importable function.
        memory_bytes: Largest memory of a slot; None for no limit.
    """

    def __init__(self, train: Train = default_train, memory_bytes: int | None = None) -> None:
        self._train, self._memory_bytes = train, memory_bytes
        self._slots: list[_Slot] = []
        self._again: list[Assignment] = []
        self._failed_starts, self._start_after = 0, 0.0
        atexit.register(self.close)  # at exit, multiprocessing would wait for slots that wait for us

    @property
    def slot_pids(self) -> list[int]:
        """Process ids of the slots."""
        return [slot.process.pid for slot in self._slots if slot.process.pid]

    def run(self, work: Work, resources: ResourcesSpec, silence_s: float) -> None:
        """Do the runs of ``work`` until it has no more or is halted.

        Raises:
            JobFailedError: The GPUs are not available, or slot processes cannot start again and again.
        """
        self._failed_starts, self._start_after = 0, 0.0
        try:
            while not work.halted():
                self._start_slots(work, resources.slots)
                more = self._hand_out(work, resources)
                busy = {slot.connection: slot for slot in self._slots if slot.assignment or (more and not slot.ready)}
                if not busy and not (more and len(self._slots) < resources.slots):
                    return
                for ready in mp_connection.wait(list(busy), TICK_S):
                    self._receive(busy[ready], work)  # type: ignore[index]
                self._kill_silent(work, silence_s)
                self._kill_large(work)
            self._interrupt(work)
        except BaseException:
            self._drop_busy()  # otherwise the next job would get messages of this one
            raise

    def close(self) -> None:
        """End every slot process."""
        while self._slots:
            self._slots.pop().kill()
        atexit.unregister(self.close)

    def _drop_busy(self) -> None:
        self._again = []
        for slot in [slot for slot in self._slots if slot.assignment or not slot.ready]:
            slot.kill()
            self._slots.remove(slot)

    def _start_slots(self, work: Work, count: int) -> None:
        """Start the slots that are missing, unless one could not start a moment ago; end those over ``count``."""
        for slot in [slot for slot in self._slots if slot.index >= count]:
            slot.kill()
            self._slots.remove(slot)
        for index in sorted(set(range(count)) - {slot.index for slot in self._slots}):
            if time.monotonic() >= self._start_after:
                try:
                    self._slots.append(_Slot(self._train, index))
                except OSError as error:  # no memory, no process ids, no files
                    self._delay_start(work, f"{type(error).__name__}: {error}")

    def _delay_start(self, work: Work, cause: str) -> None:
        """Pause before the next start of a slot. Slots that were started together and fail count once."""
        if time.monotonic() < self._start_after:
            return
        if self._failed_starts == len(START_PAUSES_S) and not any(slot.ready for slot in self._slots):
            tries = f"in {self._failed_starts + 1} tries"
            raise JobFailedError(f"no slot process could start {tries}: {cause}. The log of the worker may say why")
        pause_s = START_PAUSES_S[min(self._failed_starts, len(START_PAUSES_S) - 1)]
        self._failed_starts = min(self._failed_starts + 1, len(START_PAUSES_S))
        self._start_after = time.monotonic() + pause_s
        log.warning("a slot process could not start", extra={"cause": cause, "pause_s": pause_s})
        work.delayed(cause, pause_s)

    def _hand_out(self, work: Work, resources: ResourcesSpec) -> bool:
        """Give every idle slot a run; return False if the Work has no more. Without a run, no slot need start."""
        if not self._again and not any(slot.ready for slot in self._slots):
            first = work.next()
            if first is None:
                return False
            self._again.append(first)
        for slot in list(self._slots):
            if slot.ready is None or slot.assignment is not None:
                continue
            device = _device(slot.index, resources, slot.ready.cuda_devices)
            assignment = self._again.pop(0) if self._again else work.next()
            if assignment is None:
                return False
            run = replace(assignment.run, threads=resources.cpus_per_trial, device=device)
            slot.assignment = replace(assignment, run=run)
            work.started(slot.assignment)
            if not slot.send(SlotTask(run, assignment.facts)):
                self._replace(slot, work)
        return True

    def _receive(self, slot: _Slot, work: Work) -> None:
        message = slot.receive()
        if message is None:
            self._replace(slot, work)
        elif isinstance(message, SlotReady):
            slot.ready, self._failed_starts, self._start_after = message, 0, 0.0
        else:
            assert slot.assignment is not None, "a slot without a run sends nothing"
            if isinstance(message, Ended):
                assignment, slot.assignment = slot.assignment, None
                work.finished(assignment, message)
            elif not slot.send(work.progress(slot.assignment, message)):
                self._replace(slot, work)

    def _kill_silent(self, work: Work, silence_s: float) -> None:
        """Replace the slots that hang. One whose message still waits in the pipe does not: the worker was busy."""
        for slot in list(self._slots):
            limit = silence_s if slot.ready else START_LIMIT_S
            if (slot.assignment or not slot.ready) and slot.silent_s() > limit and not slot.connection.poll():
                self._replace(slot, work, silence(limit))

    def _kill_large(self, work: Work) -> None:
        """Fail the runs that take too much memory. They would again, so they are not tried again."""
        limit = self._memory_bytes
        for slot in [slot for slot in self._slots if slot.assignment and limit]:
            if limit and slot.assignment and memory_bytes(slot.process.pid) > limit:
                slot.kill()
                self._slots.remove(slot)
                cause = f"out of memory: it took over {limit >> 20} MiB, the limit of WARPTUNE_SLOT_MEMORY_BYTES"
                log.warning("a run took too much memory", extra={"limit_bytes": limit, **slot.assignment.facts})
                work.finished(slot.assignment, Ended(TrialState.FAILED, cause=cause))

    def _replace(self, slot: _Slot, work: Work, cause: str | None = None) -> None:
        """Drop a slot whose process is dead or hangs, and tell the Work about its run. Another one takes its place."""
        cause = cause or f"its slot process {slot.ending()}"
        slot.kill()
        self._slots.remove(slot)
        if slot.ready is None:
            self._delay_start(work, cause)
            return
        assignment = slot.assignment
        log.warning("lost a slot process", extra={"cause": cause, **(assignment.facts if assignment else {})})
        if assignment is None:
            return
        if work.lost(assignment, cause):
            self._again.append(assignment)
        else:
            work.finished(assignment, Ended(TrialState.FAILED, cause=cause))

    def _interrupt(self, work: Work) -> None:
        """Stop every run at its next point, or kill its process if that takes too long."""
        deadline = time.monotonic() + GRACE_S
        stopped = [slot.assignment for slot in self._slots if slot.assignment] + self._again
        self._again = []
        while busy := {slot.connection: slot for slot in self._slots if slot.assignment}:
            answers = mp_connection.wait(list(busy), max(0.0, deadline - time.monotonic()))
            for slot in [busy[c] for c in answers] or list(busy.values()):  # type: ignore[index]
                if not answers or not _stopped_by_itself(slot):
                    slot.kill()
                    self._slots.remove(slot)
        for assignment in stopped:
            work.interrupted(assignment)


def _stopped_by_itself(slot: _Slot) -> bool:
    """Answer the message of a slot during an interruption; return False if its process is gone."""
    message = slot.receive()
    if isinstance(message, CurvePoint):
        return slot.send(False)
    slot.assignment = None
    return message is not None


def _device(index: int, resources: ResourcesSpec, cuda_devices: int) -> str:
    """Return the device of a slot. Slots may share a device, but no slot gets parts of two."""
    amount = resources.gpus_per_trial
    if not amount:
        return "cpu"
    shared = amount < 1
    needed = math.ceil(resources.slots / runs_per_gpu(amount)) if shared else resources.slots * amount
    if needed > cuda_devices:
        raise JobFailedError(
            f"resources: {resources.slots} slots x {amount:g} GPUs need {needed:g} CUDA devices, "
            f"this worker has {cuda_devices}. Lower resources.slots or resources.gpus_per_trial"
        )
    return f"cuda:{index // runs_per_gpu(amount) if shared else int(index * amount)}"
