# The inside of a slot process. It is spawned once and does one run after the other; every point it reaches waits for
# the worker's word. It ends when the worker's end of the pipe is gone, however that came about.
"""The slot process."""

from __future__ import annotations

import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from service.engines.attempt import Train, attempt, ended_at
from service.states import TrialState
from service.training.run import Ended, Progress, Run


class Ready(NamedTuple):
    """The slot has loaded torch and waits for its first run."""

    cuda_devices: int


class _WorkerGoneError(Exception):
    """The worker's end of the pipe is closed."""


class _Pipe:
    """The slot's end of the pipe; tells the worker's end being gone from an error of the run."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: Ready | Progress | Ended) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise _WorkerGoneError from error

    def receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise _WorkerGoneError from error


def serve(connection: Connection, train: Train) -> None:
    """Do runs until the other end of ``connection`` is closed.

    Messages out: :class:`Ready` once, then for each run some :class:`Progress`, each answered with whether to go on,
    and one :class:`Ended`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they reach a whole group of processes; the worker decides
    import torch

    pipe = _Pipe(connection)
    with suppress(_WorkerGoneError):
        pipe.send(Ready(torch.cuda.device_count()))
        while True:
            pipe.send(_execute(pipe, train, pipe.receive()))


def _execute(pipe: _Pipe, train: Train, run: Run) -> Ended:
    for event in attempt(train, run):
        if isinstance(event, Ended):
            return event
        pipe.send(event)
        if not pipe.receive():
            return ended_at(event, TrialState.PRUNED)
    raise AssertionError("an attempt ends with Ended")
