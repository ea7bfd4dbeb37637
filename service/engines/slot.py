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
from service.training.run import Ended, Run


class SlotReady(NamedTuple):
    """The first message of a slot: it has loaded torch and waits for a run."""

    cuda_devices: int


def serve(connection: Connection, train: Train) -> None:
    """Do runs until the worker closes its end of ``connection``. This is the main function of a slot process.

    The slot sends :class:`SlotReady` once. For each run it then sends :class:`CurvePoint` messages, which the worker
    answers with whether to continue, and one :class:`Ended`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches slots too, but the worker decides when they stop
    import torch

    devices = torch.cuda.device_count()
    with suppress(EOFError, OSError):  # of the connection: the worker has gone. attempt() lets no error of a run out.
        connection.send(SlotReady(devices))
        while True:
            connection.send(_execute(connection, train, connection.recv()))


def _execute(connection: Connection, train: Train, run: Run) -> Ended:
    for event in attempt(train, run):
        if isinstance(event, Ended):
            return event
        connection.send(event)
        if not connection.recv():
            return ended_at(event, TrialState.PRUNED)
    raise AssertionError("an attempt ends with Ended")
