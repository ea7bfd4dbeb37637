"""Optuna's tables, which are in the same database as the ledger.

The tables are created, and Optuna is imported, when they are first needed, so that the API starts without them.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.engine import make_url

from service.db.session import LOCK_TIMEOUT_S, leave_a_standby, postgresql_arguments, schema_lock

if TYPE_CHECKING:
    import optuna


def study_name(job_id: str, arm: str) -> str:
    """Return the name of the Optuna study of an arm."""
    return f"{job_id}/{arm}"


class Studies:
    """Optuna's tables in a database. ``wait_s`` is the longest wait for a lock of SQLite, or for a free connection."""

    def __init__(self, url: str, wait_s: float = LOCK_TIMEOUT_S) -> None:
        self._url, self._wait_s = url, wait_s
        self._lock = threading.Lock()
        self._storage: optuna.storages.RDBStorage | None = None

    def open(self) -> optuna.storages.RDBStorage:
        """Return the storage. The first call creates missing tables. May be called from several threads."""
        with self._lock:
            if self._storage is None:
                with schema_lock(self._url):  # several processes must not let Optuna create its tables at once
                    self._storage = _open(self._url, self._wait_s)
            return self._storage

    def delete(self, names: Iterable[str]) -> None:
        """Delete the studies with these names. Those that do not exist are skipped."""
        delete_studies(self.open(), names)

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            if self._storage is not None:
                self._storage.remove_session()
                self._storage.engine.dispose()
                self._storage = None


def delete_studies(storage: optuna.storages.BaseStorage, names: Iterable[str]) -> None:
    """Delete the studies with these names. Those that do not exist are skipped.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database cannot be used. Optuna wraps it in an error of its own.
    """
    import optuna

    for name in names:
        try:
            with suppress(KeyError):
                optuna.delete_study(study_name=name, storage=storage)
        except optuna.exceptions.StorageInternalError as error:
            raise error.__cause__ or error from None


def _open(url: str, wait_s: float) -> optuna.storages.RDBStorage:
    import optuna

    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    options: dict[str, object] = {"connect_args": {"timeout": wait_s}, "pool_timeout": wait_s}
    if not is_sqlite:
        options |= {"connect_args": postgresql_arguments(make_url(url), wait_s), "pool_pre_ping": True}
    storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
    event.listen(storage.engine, "handle_error", leave_a_standby)
    if is_sqlite:
        event.listen(storage.engine, "connect", _relax_sqlite)
        storage.engine.dispose()  # closes the connections that were opened before the listener was added
    return storage


def _relax_sqlite(connection: sqlite3.Connection, record: object) -> None:
    del record
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
