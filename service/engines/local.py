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
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection as mp_connection
from typing import Final, NamedTuple

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


class SlotReady(NamedTuple):
    """The first message of a slot: it has loaded torch and waits for a run."""

    cuda_devices: int


def serve(connection: mp_connection.Connection, train: Train) -> None:
    """Do runs until the worker closes its end of ``connection`` or dies: the main function of a slot process.

    The slot sends :class:`SlotReady` once. For each run it then sends :class:`CurvePoint` messages, which the worker
    answers with whether to continue, and one :class:`Ended`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches slots too, but the worker decides when they stop
    multiprocessing.set_start_method(None, force=True)  # user code starts processes as it would elsewhere, not as we do
    import torch

    devices = torch.cuda.device_count()
    with suppress(EOFError, OSError):  # of the connection: the worker has gone. attempt() lets no error of a run out.
        connection.send(SlotReady(devices))
        while True:
            connection.send(_execute(connection, train, connection.recv()))


def _execute(connection: mp_connection.Connection, train: Train, run: Run) -> Ended:
    for event in attempt(train, run):
        if isinstance(event, Ended):
            return event
        connection.send(event)
        if not connection.recv():
            return ended_at(event, TrialState.PRUNED)
    raise AssertionError("an attempt ends with Ended")


class _Slot:
    """The worker's side of one slot process."""

    def __init__(self, train: Train) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # not a daemon, which could start no processes, such as those of a DataLoader in a training loop of the user's
        self.process = context.Process(target=serve, args=(theirs, train), name="warptune-slot")
        self.process.start()
        theirs.close()  # only the slot holds that end now, so its death closes the pipe
        self.ready: SlotReady | None = None
        self.assignment: Assignment | None = None
        self.heard = time.monotonic()

    def send(self, message: Run | bool) -> bool:
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

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class LocalEngine:
    """Does the runs of a Work in ``resources.slots`` processes, with ``train``, an importable function."""

    def __init__(self, train: Train = default_train) -> None:
        self._train = train
        self._slots: list[_Slot] = []
        self._again: list[Assignment] = []
        atexit.register(self.close)  # at exit, multiprocessing would wait for slots that wait for us

    @property
    def slot_pids(self) -> list[int]:
        """Process ids of the slots."""
        return [slot.process.pid for slot in self._slots if slot.process.pid]

    def run(self, work: Work, resources: ResourcesSpec, silence_s: float) -> None:
        """Do the runs of ``work`` until it has no more or is halted.

        Raises:
            JobFailedError: The GPUs are not available, or a slot process cannot start.
        """
        try:
            while len(self._slots) < resources.slots:
                self._slots.append(_Slot(self._train))
            while len(self._slots) > resources.slots:
                self._slots.pop().kill()
            while not work.halted():
                more = self._hand_out(work, resources)
                busy = {slot.connection: slot for slot in self._slots if slot.assignment or (more and not slot.ready)}
                if not busy:
                    return
                for ready in mp_connection.wait(list(busy), TICK_S):
                    self._receive(busy[ready], work)  # type: ignore[index]
                self._kill_silent(work, silence_s)
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

    def _hand_out(self, work: Work, resources: ResourcesSpec) -> bool:
        """Give every idle slot a run; return False if the Work has no more."""
        for index, slot in enumerate(self._slots):
            if slot.ready is None or slot.assignment is not None:
                continue
            device = _device(index, resources, slot.ready.cuda_devices)
            assignment = self._again.pop(0) if self._again else work.next()
            if assignment is None:
                return False
            run = replace(assignment.run, threads=resources.cpus_per_trial, device=device)
            slot.assignment = replace(assignment, run=run)
            work.started(slot.assignment)
            if not slot.send(run):
                self._replace(slot, work)
        return True

    def _receive(self, slot: _Slot, work: Work) -> None:
        message = slot.receive()
        if message is None:
            self._replace(slot, work)
        elif isinstance(message, SlotReady):
            slot.ready = message
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

    def _replace(self, slot: _Slot, work: Work, cause: str | None = None) -> None:
        """Replace a slot whose process is dead or hangs, and tell the Work about its run."""
        slot.kill()
        cause = cause or f"its slot process ended with exit code {slot.process.exitcode}"
        if slot.ready is None:
            self._slots.remove(slot)
            raise JobFailedError(f"a slot process could not start: {cause}. The log of the worker may say why")
        log.warning("lost a slot process", extra={"cause": cause})
        assignment = slot.assignment
        self._slots[self._slots.index(slot)] = _Slot(self._train)
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
