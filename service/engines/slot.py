"""The inside of a slot process, which does one run after another.

At every point, the slot waits for the worker to say whether the run should continue. The process ends when the worker
closes its end of the pipe or dies.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

from service.engines.attempt import Train, attempt, ended_at
from service.states import TrialState
from service.training.run import Ended, Progress, Run


class SlotReady(NamedTuple):
    """The first message of a slot: it has loaded torch and waits for a run."""

    cuda_devices: int


class _WorkerGoneError(Exception):
    """The worker has closed its end of the pipe, or has died."""


class _Pipe:
    """The slot's end of the pipe. Its errors have their own type, so that an OSError of a run is not taken for one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: SlotReady | Progress | Ended) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise _WorkerGoneError from error

    def receive(self) -> object:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise _WorkerGoneError from error


def serve(connection: Connection, train: Train) -> None:
    """Do runs until the worker closes its end of ``connection``. This is the main function of a slot process.

    The slot sends :class:`SlotReady` once. For each run it then sends :class:`Progress` messages, which the worker
    answers with whether to continue, and one :class:`Ended`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches slots too, but the worker decides when they stop
    import torch

    pipe = _Pipe(connection)
    with suppress(_WorkerGoneError):
        pipe.send(SlotReady(torch.cuda.device_count()))
        while True:
            run = pipe.receive()
            assert isinstance(run, Run)
            pipe.send(_execute(pipe, train, run))


def _execute(pipe: _Pipe, train: Train, run: Run) -> Ended:
    for event in attempt(train, run):
        if isinstance(event, Ended):
            return event
        pipe.send(event)
        if not pipe.receive():
            return ended_at(event, TrialState.PRUNED)
    raise AssertionError("an attempt ends with Ended")
