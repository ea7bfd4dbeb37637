"""Tells whether anything was committed to the database since an earlier moment, by any process, without reading it.

What was computed from the database is still right while the mark of the last commit is the same.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, final

from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from service.db.session import Database
from service.errors import DatabaseReplacedError

Mark = Hashable
"""Equal to another only if nothing was committed in between."""

PATIENCE_S: Final = 0.25
"""How long a request waits for the mark. Without one it is answered from the database, or gets its error."""

SNAPSHOT: Final = b"SELECT pg_current_snapshot()"


class LastCommit(Protocol):
    """The last commit of a database."""

    async def mark(self) -> Mark | None:
        """Return the mark as it is after this call; None if the database cannot tell it now."""

    def close(self) -> None:
        """Close the connection to the database."""


def last_commit(database: Database) -> LastCommit:
    """Return the last commit of a database."""
    is_sqlite = database.url.get_backend_name() == "sqlite"
    return SqliteLastCommit(database.url) if is_sqlite else PostgresLastCommit(database)


@final
class SqliteLastCommit:
    """Reads SQLite's ``data_version`` from a connection of its own, which sees the commits of all others.

    That takes some microseconds and waits for nothing, so it is done in the event loop. A file that was replaced is
    noticed by its number in the file system.
    """

    def __init__(self, url: URL) -> None:
        self._path = url.database or ""
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._opened = 0
        self._lock = threading.Lock()  # tests have several event loops

    async def mark(self) -> Mark | None:
        """Return the mark; None if the file is gone, or is being recovered."""
        with self._lock:
            try:
                found = os.stat(self._path)
                if self._connection is None or (found.st_dev, found.st_ino) != self._file:
                    self._open(found)
                assert self._connection is not None
                (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            except (OSError, sqlite3.Error):
                self._close()
                return None
            return self._opened, version

    def _open(self, found: os.stat_result) -> None:
        self._close()
        self._connection = sqlite3.connect(
            f"file:{self._path}?mode=rw", uri=True, timeout=0, isolation_level=None, check_same_thread=False
        )
        self._file = found.st_dev, found.st_ino
        self._opened += 1  # the numbers of two connections do not compare

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._close()


@dataclass(eq=False, slots=True)
class _Question:
    """The question for the snapshot, and the requests that wait for its answer."""

    timer: asyncio.TimerHandle
    waiting: list[asyncio.Future[Mark | None]] = field(default_factory=list)

    def answer(self, mark: Mark | None) -> None:
        self.timer.cancel()
        for future in self.waiting:
            if not future.done():  # the request was cancelled
                future.set_result(mark)


@final
class PostgresLastCommit:
    """Reads the snapshot of PostgreSQL: which transactions are visible. One question serves all that wait for it.

    A request that comes after a question was sent waits for the next one. So no answer is older than the request. There
    is one question at a time, on a connection of its own, which the event loop writes to and reads from: a thread and
    a connection of the pool would take several times as long.

    A snapshot covers all databases of the server, so it may change without need.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None  # of psycopg
        self._opened, self._socket = 0, -1
        self._opening: asyncio.Task[None] | None = None
        self._sent: _Question | None = None
        self._next: _Question | None = None
        self._found: Mark | None = None

    async def mark(self) -> Mark | None:
        """Return the mark; None if the server does not answer, or has another database now."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # tests have several, one after the other
            self.close()
            self._loop = loop
        if self._next is None:
            self._next = _Question(loop.call_later(PATIENCE_S, self._give_up))
            loop.call_soon(self._ask)  # so requests that have arrived already share the question
        future: asyncio.Future[Mark | None] = loop.create_future()
        self._next.waiting.append(future)
        return await future

    def _ask(self) -> None:
        """Send the next question, unless one is not answered yet."""
        if self._next is None or self._sent is not None:
            return
        if self._connection is None:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
            return
        self._sent, self._next, self._found = self._next, None, None
        try:
            self._connection.pgconn.send_query(SNAPSHOT)
        except self._driver_error:
            self._give_up()

    async def _open(self) -> None:
        loop, connection = asyncio.get_running_loop(), None
        try:  # in a thread that requests do not use: they may all wait for the database
            connection = await loop.run_in_executor(None, self._database.connect_apart)
        except (self._driver_error, SQLAlchemyError, DatabaseReplacedError):
            self._give_up()
        finally:
            if loop is self._loop:
                self._opening = None
        if connection is None:
            return
        if loop is not self._loop:  # close was called meanwhile
            connection.close()
            return
        self._connection = connection
        self._opened += 1  # the numbers of two servers do not compare
        self._socket = connection.fileno()  # the driver forgets it when the connection ends
        loop.add_reader(self._socket, self._read)
        self._ask()

    def _read(self) -> None:
        """Take in what the server sent: the answer, or the end of the connection."""
        wire = self._connection.pgconn
        try:
            wire.consume_input()
            while not wire.is_busy():
                result = wire.get_result()
                if result is None:
                    self._end_question()
                    return
                self._found = (self._opened, result.get_value(0, 0)) if result.ntuples else None
        except self._driver_error:
            self._give_up()

    def _end_question(self) -> None:
        if (answered := self._sent) is not None:
            self._sent = None
            answered.answer(self._found)
            self._ask()

    def _give_up(self) -> None:
        """Close the connection, which leads nowhere, and leave all that wait without a mark."""
        if self._connection is not None and self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._connection.close()
            self._connection = None
        unanswered, self._sent, self._next = (self._sent, self._next), None, None
        for question in filter(None, unanswered):
            question.answer(None)

    @property
    def _driver_error(self) -> type[Exception]:
        error: type[Exception] = self._database.engine.dialect.loaded_dbapi.Error
        return error

    def close(self) -> None:
        """Close the connection."""
        self._give_up()
        self._loop = self._opening = None
