"""What is killed or stopped, and when: the victims, the moments, and the cells that are tried.

A moment is a call of one function of the service. Before its nth call, something happens to the victim: SIGKILL, or
SIGSTOP and a SIGCONT after the lease. The process that makes the call does this itself, so nothing depends on time.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil

Role = Literal["api", "worker"]

TURN: Final = "turn"
"""File in the folder of a service: the number of the job that is struck, and at which call of the moment."""

HAPPENED: Final = "happened-"
"""Beginning of the names of files there, before the turn: when something happened to the victim in that turn."""

STOPPED: Final = "stopped-"
"""Beginning of the names of files there: a process with this id was stopped and must be continued."""

DYING: Final = "dying"
"""File there: the signal that the next slot sends itself while it starts."""

SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT}

WAYS: Final = ("kill", "stop")
"""What happens to a victim: SIGKILL, or SIGSTOP and a SIGCONT after the lease."""

VICTIMS: Final = ("worker", "slot", "slot while it starts", "api", "database", "node")


@dataclass(frozen=True, slots=True)
class Moment:
    """A call of a function.

    Attributes:
        name: What is going on then.
        where: The process that makes the call; ``start`` is the API or the worker, while it starts.
        targets: The functions, as ``module:name``; for a step of any optimizer, ``step``.
        calls: One of the first so many calls is chosen.
        when: Before the call, after it, or when the iterator that it returns has given half of what it has.
    """

    name: str
    where: Literal["api", "worker", "slot", "start"]
    targets: tuple[str, ...]
    calls: int = 1
    when: Literal["before", "after", "half"] = "before"


_RUNS: Final = "service.ledger.runs:RunLog"
_OPTUNA: Final = "optuna.storages._rdb.storage:_VersionManager"

MOMENTS: Final = {
    moment.name: moment
    for moment in (
        Moment("in a migration", "start", ("alembic.runtime.migration:HeadMaintainer.update_to_step",), 8),
        Moment(
            "while Optuna's tables are made",
            "start",
            (f"{_OPTUNA}._init_version_info_model", f"{_OPTUNA}._set_alembic_revision"),
            2,
        ),
        Moment("before a submission is answered", "api", ("service.submission.submit:submit",), when="after"),
        Moment("when a worker takes a job", "worker", (f"{_RUNS}.recover_trials",)),
        Moment("before Optuna is asked", "worker", ("service.running.arm_study:ArmStudy.ask",), 5),
        Moment("at the start of a trial", "worker", ("service.running.arm_search:ArmSearch.started",), 5),
        Moment("in the middle of a trial", "worker", ("service.running.arm_search:ArmSearch.progress",), 45),
        Moment("in a step", "slot", ("step",), 150),
        Moment("in a checkpoint", "slot", ("fsspec.implementations.local:LocalFileSystem.mv",), 15),
        Moment("before the end of a trial is stored", "worker", (f"{_RUNS}.finish_trial",), 5),
        Moment("before Optuna is told of it", "worker", ("service.running.arm_study:ArmStudy.tell",), 5),
        Moment("at the verdict", "worker", ("service.running.job_run:make_result",)),
        Moment("before the result is stored", "worker", (f"{_RUNS}.succeed",)),
        Moment("while a zip is sent", "api", ("service.api.results:_pieces",), when="half"),
    )
}
"""By name, in the order in which a job comes to them. ``calls`` are those of five trials of ten points, and more
runs after them."""

MOMENTS_OF_REQUESTS: Final = {
    moment.name: moment
    for moment in (
        Moment("when it gives a paused job back", "worker", (f"{_RUNS}.release",)),
        Moment("when it takes a resumed job", "worker", (f"{_RUNS}.recover_trials",)),
        Moment("when it ends the search of a stopped job", "worker", (f"{_RUNS}.finish_arm",)),
    )
}
"""The same, for jobs that are paused, resumed or stopped."""


WITH_RAY: Final = (
    "at the start of a trial",
    "in the middle of a trial",
    "in a step",
    "in a checkpoint",
    "before the end of a trial is stored",
    "before Optuna is told of it",
    "at the verdict",
)
"""Moments that are also tried with the engine ray: those at which it has a run, and the end of the runs."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing that happens to one job."""

    victim: str
    signal: str
    moment: str
    database: str
    engine: str = "optuna"

    @property
    def makes_sense(self) -> bool:
        """Whether the cell is tried. docs/reliability.md says the same in words."""
        if self.engine == "ray":  # the API and the databases have nothing to do with it
            return self.database == "sqlite" and self.victim in ("worker", "slot", "node") and self.moment in WITH_RAY
        if self.victim == "node" or (self.victim == "database" and self.database == "sqlite"):
            return False  # only Ray has nodes, and SQLite has no process
        return self.victim in _there(MOMENTS[self.moment])

    def __str__(self) -> str:
        return f"{self.signal} {self.victim} {self.moment}, {self.database}, {self.engine}"


def _there(moment: Moment) -> tuple[str, ...]:
    """Return the victims that take part in what is going on at a moment."""
    if moment.where == "api":
        return "api", "database"
    if moment.name == "while Optuna's tables are made":
        return "worker", "database"  # the worker makes them
    if moment.where == "start" or moment.name == "when a worker takes a job":
        return "worker", "api", "database"  # slots start later
    return VICTIMS


def cells() -> list[Cell]:
    """Return the cells that are tried."""
    every = itertools.product(VICTIMS, WAYS, MOMENTS, ("sqlite", "postgresql"), ("optuna", "ray"))
    return [cell for cell in itertools.starmap(Cell, every) if cell.makes_sense]


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to a service: something to ``victim`` at one call of a moment, once in each turn.

    Attributes:
        folder: Folder of the service.
        postgres: Folder of the data of PostgreSQL.
    """

    folder: str
    victim: str
    signal: str
    moment: str
    postgres: str = ""

    @property
    def at(self) -> Moment:
        """The moment."""
        return {**MOMENTS, **MOMENTS_OF_REQUESTS}[self.moment]

    def begin_turn(self, turn: int, nth: int) -> None:
        """Let it happen at the nth call from now on."""
        (Path(self.folder) / DYING).unlink(missing_ok=True)  # no slot started after the last moments of the turn before
        draft = Path(self.folder) / f".{TURN}"
        draft.write_text(f"{turn} {nth}")
        draft.replace(Path(self.folder) / TURN)

    def turn(self) -> tuple[int, int]:
        """Return the turn, and the call at which it happens in it."""
        turn, nth = (Path(self.folder) / TURN).read_text().split()
        return int(turn), int(nth)

    def happened(self) -> bool:
        """Return whether it has happened in this turn."""
        return self.when() is not None

    def when(self) -> tuple[int, float] | None:
        """Return this turn and when it happened in it, in seconds since 1970; None if it has not happened.

        The turn is read once, as another thread may begin the next one.
        """
        turn, _ = self.turn()
        note = self._note(turn)
        return (turn, float(note.read_text())) if note.exists() else None

    def _note(self, turn: int) -> Path:
        return Path(self.folder) / f"{HAPPENED}{turn}"

    def strike(self, turn: int, worker_pid: int) -> None:
        """Do it, unless it was done in this turn. Called in any process of the service."""
        folder = Path(self.folder)
        draft = folder / f".{HAPPENED}{os.getpid()}"
        draft.write_text(str(time.time()))
        try:
            os.link(draft, self._note(turn))  # whole or not at all, and only once
        except FileExistsError:
            return
        finally:
            draft.unlink()
        if self.victim == "slot while it starts":
            (folder / DYING).write_text(self.signal)
            send(folder, "kill", slots_of(worker_pid))
        else:
            send(folder, self.signal, self._pids(worker_pid))

    def _pids(self, worker_pid: int) -> Iterable[int]:
        match self.victim:
            case "worker":
                return [worker_pid]
            case "api":
                return [int((Path(self.folder) / "api.pid").read_text())]
            case "slot":
                return slots_of(worker_pid)
            case "node":
                return [one.pid for one in psutil.Process(worker_pid).children() if one.name() == "raylet"]
            case _:
                server = postmaster(self.postgres)
                return [server.pid] if self.signal == "kill" else [server.pid, *(one.pid for one in server.children())]


def send(folder: Path, name: str, pids: Iterable[int]) -> None:
    """Send a signal to processes; to this one last. Those that are stopped leave a note, so that they go on later."""
    for pid in sorted(pids, key=lambda pid: pid == os.getpid()):
        if name == "stop":
            (folder / f"{STOPPED}{pid}").touch()
        with suppress(ProcessLookupError):
            os.kill(pid, SIGNALS[name])


def postmaster(data: str) -> psutil.Process:
    """Return the process of the PostgreSQL server whose data is in a folder."""
    return psutil.Process(int(Path(data, "postmaster.pid").read_text().split()[0]))


def slots_of(worker_pid: int) -> list[int]:
    """Return the slots of a worker, which multiprocessing has spawned, or its actors in Ray."""
    children = psutil.Process(worker_pid).children(recursive=True)
    commands = {child.pid: " ".join(child.cmdline()) for child in children}
    return [pid for pid, words in commands.items() if "spawn_main" in words or "RunActor" in words]


def chosen_calls(seed: int, cell: Cell, repeats: int) -> list[int]:
    """Return for each repeat the call of its moment at which the victim is struck: the same for the same seed."""
    chosen = random.Random(f"{seed}/{cell}")
    return [chosen.randint(1, MOMENTS[cell.moment].calls) for _ in range(repeats)]


def first_half(pieces: Iterator[bytes]) -> tuple[bytes, bytes]:
    """Return all bytes of an iterator in two halves."""
    whole = b"".join(pieces)
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]
