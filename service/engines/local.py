"""The engine for one machine, which does runs in slot processes.

A slot is spawned when a run waits for one, and reused for all runs of all jobs, because a new process must load torch.
One that had nothing to do for a while is ended. One that has run code of a user, which may change anything in its
process, does no runs of other code. No run needs the state of its slot, so one that dies or hangs costs one attempt at
one run. :func:`serve` is the inside of a slot; everything else runs in the worker's main thread.
"""

from __future__ import annotations

import atexit
import logging
import math
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection as mp_connection
from pathlib import Path
from typing import Final, NamedTuple

from service import logs
from service.accounts import Account
from service.artifacts import local_path
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
from service.errors import JobFailedError, OutdatedWorkerError
from service.processes import how_it_ended, memory_bytes, oom_kills, require_cpus, run_on
from service.settings import LogSettings, Settings
from service.spec.job import ResourcesSpec
from service.states import TrialState
from service.training.run import CurvePoint, Ended, Run
from service.version import differences, versions

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

IDLE_S: Final = 30.0
"""Time without a run after which a slot is ended. It is longer than the pauses between two phases of a job."""

LAST_WORDS_S: Final = 1.0
"""Time that a process whose pipe is closed gets to end by itself, so that its exit code is its own."""

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""Signals that reach slots when the worker is to stop, for example with Ctrl-C. The worker decides when slots stop."""


class SlotReady(NamedTuple):
    """The first message of a slot: it has loaded torch and waits for a run. ``versions`` are those that it has."""

    cuda_devices: int
    versions: Mapping[str, str]


class SlotTask(NamedTuple):
    """A run for a slot, and what the log lines about it say."""

    run: Run
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class SlotRules:
    """What a slot process may do.

    Attributes:
        memory_bytes: Its largest memory; None for no limit.
        nice: How much it yields to other processes, up to 19.
        cpus: The CPUs that it runs on; None for those of the worker.
        account: The user that it runs as; None for the worker's.
        home: A folder of that user, for temporary files.
    """

    memory_bytes: int | None = None
    nice: int = 0
    cpus: frozenset[int] | None = None
    account: Account | None = None
    home: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> SlotRules:
        """Return the rules of an operator.

        Raises:
            OSError: The machine does not have the CPUs of the slots. Or the user of the slots does not exist, or
                cannot read what a slot needs.
        """
        require_cpus(settings.cpus_of_slots)
        rules = cls(settings.slot_memory_bytes, settings.slot_nice, settings.cpus_of_slots)
        if settings.slot_user is None:
            return rules
        account, home = Account.of(settings.slot_user), Path(tempfile.mkdtemp(prefix="warptune-slots-"))
        account.give(home)
        store, is_local = local_path(settings.artifacts_url)
        if is_local:
            store.mkdir(parents=True, exist_ok=True)
        account.require_access(store if is_local else home)
        return replace(rules, account=account, home=home)

    def apply(self) -> None:
        """Bind this process to them, for good."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no copy of its memory, with the data of users, on the disk
        os.nice(self.nice)
        run_on(self.cpus)
        if self.account is not None and self.home is not None:
            self.account.enter()
            os.environ.update(self.account.at_home(self.home))
            os.chdir(self.home)


def serve(connection: mp_connection.Connection, train: Train, rules: SlotRules) -> None:
    """Do runs until the worker closes its end of ``connection`` or dies: the main function of a slot process.

    The slot sends :class:`SlotReady` once. For each run it then sends :class:`CurvePoint` messages, which the worker
    answers with whether to continue, and one :class:`Ended`.
    """
    os.setsid()  # the slot and what user code starts are one process group, which ends as a whole
    _keep_to_this_process(connection)
    _leave_stopping_to_the_worker()
    rules.apply()
    logs.configure(LogSettings())
    multiprocessing.set_start_method(None, force=True)  # user code starts processes as it would elsewhere, not as we do
    import torch

    devices = torch.cuda.device_count()
    with suppress(EOFError, OSError):  # of the connection: the worker has gone. attempt() lets no error of a run out.
        connection.send(SlotReady(devices, versions()))
        while True:
            connection.send(_execute(connection, train, connection.recv()))
    if os.getpid() == os.getsid(0):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)  # a process that user code has forked: it cannot send, and does no runs


def _keep_to_this_process(connection: mp_connection.Connection) -> None:
    """Let no process that user code starts have the connection: it could answer for us, and hide that we have died."""
    os.set_inheritable(connection.fileno(), False)
    os.register_at_fork(after_in_child=connection.close)


def _leave_stopping_to_the_worker() -> None:
    """Let SIGINT and SIGTERM do nothing in this process. In those that user code starts they do what they always do.

    Such processes would inherit that a signal is ignored. They inherit a handler only through a fork, which undoes it.
    """
    defaults = {number: signal.signal(number, lambda *_: None) for number in STOP_SIGNALS}

    def undo() -> None:
        for number, handler in defaults.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, STOP_SIGNALS),  # one that comes first must wait
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, STOP_SIGNALS),
        after_in_child=undo,
    )


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
    """The worker's side of one slot process. ``index`` says which devices are its own.

    ``user_code`` is what it has run; None if it has run no code of a user.
    """

    def __init__(self, train: Train, index: int, rules: SlotRules) -> None:
        self.index, self._oom_kills = index, oom_kills()
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # not a daemon, which could start no processes, such as those of a DataLoader in a training loop of the user's
        self.process = context.Process(target=serve, args=(theirs, train, rules), name="warptune-slot")
        self.process.start()
        theirs.close()  # only the slot holds that end now, so its death closes the pipe
        self.ready: SlotReady | None = None
        self.assignment: Assignment | None = None
        self.user_code: tuple[str, str] | None = None
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
        """End the process, and every one that user code has started in it."""
        assert self.process.pid is not None, "it was started"
        with suppress(ProcessLookupError, PermissionError):  # it is starting, or only processes of others are left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


class LocalEngine:
    """Does the runs of a Work in at most ``resources.slots`` processes.

    Args:
        train: Does a run; an importable function.
        rules: What a slot may do.
    """

    def __init__(self, train: Train = default_train, rules: SlotRules | None = None) -> None:
        self._train, self._rules = train, rules or SlotRules()
        self._slots: list[_Slot] = []
        self._waiting: list[Assignment] = []  # runs that wait for a slot
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
            OutdatedWorkerError: A new slot has other versions than this process.
        """
        self._failed_starts, self._start_after = 0, 0.0
        try:
            self._end([slot for slot in self._slots if slot.index >= resources.slots])
            while not work.halted():
                self._hand_out(work, resources)
                self._start_slots(work, resources.slots)
                busy = {slot.connection: slot for slot in self._slots if slot.assignment or not slot.ready}
                if not self._waiting and not any(slot.assignment for slot in self._slots):
                    return
                for ready in mp_connection.wait(list(busy), TICK_S):
                    self._receive(busy[ready], work)  # type: ignore[index]
                self._kill_silent(work, silence_s)
                self._kill_large(work)
                self.end_idle()
            self._interrupt(work)
        except BaseException:
            self._drop_busy()  # otherwise the next job would get messages of this one
            raise

    def close(self) -> None:
        """End every slot process."""
        self._end(self._slots)
        atexit.unregister(self.close)

    def end_idle(self) -> None:
        """End slots that had nothing to do for a while. One is left, so that the next job need not load torch."""
        quiet = [slot for slot in self._slots if not slot.assignment and slot.silent_s() > IDLE_S]
        idle = [slot for slot in quiet if slot.ready or slot.connection.poll()]  # others are still starting
        self._end(idle if len(idle) < len(self._slots) else idle[1:])

    def _end(self, slots: Sequence[_Slot]) -> None:
        for slot in list(slots):
            slot.kill()
            self._slots.remove(slot)

    def _drop_busy(self) -> None:
        self._waiting = []
        self._end([slot for slot in self._slots if slot.assignment or not slot.ready])

    def _start_slots(self, work: Work, count: int) -> None:
        """Start a slot for each run that waits for one, up to ``count`` slots, unless one just could not start.

        The slots that are starting have no run yet, and will take those that wait.
        """
        for index in sorted(set(range(count)) - {slot.index for slot in self._slots}):
            starting = sum(not slot.ready for slot in self._slots)
            if time.monotonic() < self._start_after or (starting >= len(self._waiting) and not self._fetch(work)):
                return
            try:
                self._slots.append(_Slot(self._train, index, self._rules))
            except OSError as error:  # no memory, no process ids, no files
                self._delay_start(work, f"{type(error).__name__}: {error}")

    def _fetch(self, work: Work) -> bool:
        """Let one more run wait for a slot; return False if there is none now."""
        assignment = work.next()
        if assignment is not None:
            self._waiting.append(assignment)
        return assignment is not None

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

    def _hand_out(self, work: Work, resources: ResourcesSpec) -> None:
        """Give every idle slot a run, as far as there are any."""
        for slot in list(self._slots):
            if slot.ready is None or slot.assignment is not None:
                continue
            if slot.connection.poll():  # one without a run sends nothing: its process has died
                self._replace(slot, work)
                continue
            device = _device(slot.index, resources, slot.ready.cuda_devices)
            if not self._waiting and not self._fetch(work):
                return
            user_code = _user_code(self._waiting[0].run)
            if slot.user_code not in (None, user_code):
                self._end([slot])
                continue
            slot.user_code, assignment = user_code, self._waiting.pop(0)
            run = replace(assignment.run, threads=resources.cpus_per_trial, device=device)
            slot.assignment = replace(assignment, run=run)
            work.started(slot.assignment)
            if not slot.send(SlotTask(run, assignment.facts)):
                self._replace(slot, work)

    def _receive(self, slot: _Slot, work: Work) -> None:
        message = slot.receive()
        if message is None:
            self._replace(slot, work)
        elif isinstance(message, SlotReady):
            if others := differences(message.versions, versions()):
                raise OutdatedWorkerError(others)
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
        limit = self._rules.memory_bytes
        for slot in [slot for slot in self._slots if slot.assignment and limit]:
            if limit and slot.assignment and memory_bytes(slot.process.pid) > limit:
                self._end([slot])
                cause = f"out of memory: it took over {limit >> 20} MiB, the limit of WARPTUNE_SLOT_MEMORY_BYTES"
                log.warning("a run took too much memory", extra={"limit_bytes": limit, **slot.assignment.facts})
                work.finished(slot.assignment, Ended(TrialState.FAILED, cause=cause))

    def _replace(self, slot: _Slot, work: Work, cause: str | None = None) -> None:
        """Drop a slot whose process is dead or hangs, and tell the Work about its run. Another one takes its place."""
        cause = cause or f"its slot process {slot.ending()}"
        self._end([slot])
        if slot.ready is None:
            self._delay_start(work, cause)
            return
        assignment = slot.assignment
        log.warning("lost a slot process", extra={"cause": cause, **(assignment.facts if assignment else {})})
        if assignment is None:
            return
        if work.lost(assignment, cause):
            self._waiting.append(assignment)
        else:
            work.finished(assignment, Ended(TrialState.FAILED, cause=cause))

    def _interrupt(self, work: Work) -> None:
        """Stop every run at its next point, or kill its process if that takes too long."""
        deadline = time.monotonic() + GRACE_S
        stopped = [slot.assignment for slot in self._slots if slot.assignment] + self._waiting
        self._waiting = []
        while busy := {slot.connection: slot for slot in self._slots if slot.assignment}:
            answers = mp_connection.wait(list(busy), max(0.0, deadline - time.monotonic()))
            for slot in [busy[c] for c in answers] or list(busy.values()):  # type: ignore[index]
                if not answers or not _stopped_by_itself(slot):
                    self._end([slot])
        for assignment in stopped:
            work.interrupted(assignment)


def _stopped_by_itself(slot: _Slot) -> bool:
    """Answer the message of a slot during an interruption; return False if its process is gone."""
    message = slot.receive()
    if isinstance(message, CurvePoint):
        return slot.send(False)
    slot.assignment = None
    return message is not None


def _user_code(run: Run) -> tuple[str, str] | None:
    """Return the name of the user's function that a run calls, and the SHA-256 of its source; None if it calls none."""
    if run.model is None or "entrypoint" not in run.model:
        return None
    return run.model["entrypoint"], run.model["sha256"]


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
