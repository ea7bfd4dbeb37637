"""Tells whether anything was committed to the database since an earlier moment, by any process, without reading it.

What was computed from the database is still right while the mark of the last commit is the same.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Hashable
from typing import Final, Protocol, final

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from service.db.session import Database
from service.errors import DatabaseReplacedError

Mark = Hashable
"""Equal to another only if nothing was committed in between."""

PATIENCE_S: Final = 0.25
"""How long a request waits for the mark. Without one it is answered from the database, or gets its error."""

SNAPSHOT: Final = text("SELECT pg_current_snapshot()::text")


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


@final
class PostgresLastCommit:
    """Reads the snapshot of PostgreSQL: which transactions are visible. One question serves all that wait for it.

    A snapshot covers all databases of the server, so it may change without need.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: asyncio.Task[Mark | None] | None = None
        self._next: asyncio.Task[Mark | None] | None = None

    async def mark(self) -> Mark | None:
        """Return the mark; None if the server does not answer, or has another database now."""
        if self._next is None:
            self._next = asyncio.create_task(self._ask_after(self._asked))
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.shield(self._next)  # others may wait for it when this request is cancelled
        except TimeoutError:
            return None

    async def _ask_after(self, asked: asyncio.Task[Mark | None] | None) -> Mark | None:
        """Ask when the question before is answered. Whoever comes later needs the question after this one."""
        if asked is not None:
            await asyncio.wait([asked])
        self._asked, self._next = self._next, None
        return await run_in_threadpool(self._ask)

    def _ask(self) -> Mark | None:
        engine = self._database.engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                return str(connection.scalar(SNAPSHOT))
        except (SQLAlchemyError, DatabaseReplacedError):
            return None

    def close(self) -> None:
        """Do nothing: the connections are those of the database."""
