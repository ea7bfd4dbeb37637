"""Optuna's tables, which are in the same database as the ledger.

The tables are created or updated, and Optuna is imported, when they are first needed, so that the API starts without
them. Whether their version is right can be asked without importing Optuna.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import event, inspect, text
from sqlalchemy.engine import make_url

from service.db.session import (
    LOCK_TIMEOUT_S,
    Database,
    create_schema,
    leave_a_standby,
    postgresql_arguments,
    schema_lock,
)
from service.errors import DatabaseVersionError

if TYPE_CHECKING:
    import optuna

MIGRATIONS: Final = "storages/_rdb/alembic/versions"
"""Folder of Optuna's migrations, within its package."""

REVISION: Final = re.compile(r'^(down_)?revision = "(.+)"', re.MULTILINE)
"""What a migration says: its own revision, and the one that comes before it."""


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
        """Return the storage. The first call creates or updates the tables. May be called from several threads.

        Raises:
            DatabaseVersionError: A newer Optuna has updated the tables.
        """
        with self._lock:
            if self._storage is None:
                with schema_lock(self._url):  # several processes must not let Optuna create its tables at once
                    with closing(Database(self._url)) as database:
                        require_known_studies(database)
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


def create_tables(url: str) -> None:
    """Create our tables, or update them to this version; change nothing if a newer Optuna has made its own.

    Raises:
        DatabaseVersionError: This version does not know our tables, or this Optuna does not know its own.
    """
    with closing(Database(url)) as database:
        require_known_studies(database)
    create_schema(url)


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


def require_known_studies(database: Database) -> tuple[str | None, str]:
    """Return the version that Optuna's tables have, None without tables, and the one that this Optuna needs.

    Raises:
        DatabaseVersionError: A newer Optuna has made or updated them.
    """
    with database.read() as session:
        is_there = inspect(session.connection()).has_table("alembic_version")
        current = session.scalar(text("SELECT version_num FROM alembic_version")) if is_there else None
    known, latest = _versions_of_optuna()
    if current is not None and current not in known:
        raise DatabaseVersionError(
            f"the database (WARPTUNE_DATABASE_URL) has tables {current} of a newer Optuna; this one, {_optuna()}, "
            f"knows them up to {latest}. Update it: pip install --upgrade optuna"
        )
    return current, latest


def require_current_studies(database: Database) -> None:
    """Check that Optuna's tables, if there are any, have the version that this Optuna needs.

    Raises:
        DatabaseVersionError: They have another one.
    """
    current, latest = require_known_studies(database)
    if current not in (None, latest):
        raise DatabaseVersionError(
            f"the database (WARPTUNE_DATABASE_URL) has tables {current} of an older Optuna, and this one, {_optuna()}, "
            f"needs {latest}. Update them first: warptune migrate"
        )


def _optuna() -> str:
    return importlib.metadata.version("optuna")


@cache
def _versions_of_optuna() -> tuple[set[str], str]:
    """Return the versions of the tables that the installed Optuna knows, and the last of them.

    Its migrations are read as text: importing them would import Optuna, which takes half a second and 15 MB.
    """
    spec = importlib.util.find_spec("optuna")
    assert spec is not None
    assert spec.origin is not None
    texts = [path.read_text() for path in Path(spec.origin).parent.joinpath(MIGRATIONS).glob("*.py")]
    found = [match for source in texts for match in REVISION.findall(source)]
    known, older = {name for down, name in found if not down}, {name for down, name in found if down}
    (latest,) = known - older
    return known, latest


def _open(url: str, wait_s: float) -> optuna.storages.RDBStorage:
    import optuna

    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    options: dict[str, object] = {"connect_args": {"timeout": wait_s}, "pool_timeout": wait_s}
    if not is_sqlite:
        options |= {"connect_args": postgresql_arguments(make_url(url), wait_s), "pool_pre_ping": True}
    storage = optuna.storages.RDBStorage(url, engine_kwargs=options, skip_compatibility_check=True)
    if storage.get_current_version() != storage.get_head_version():
        storage.upgrade()
    event.listen(storage.engine, "handle_error", leave_a_standby)
    if is_sqlite:
        event.listen(storage.engine, "connect", _relax_sqlite)
        storage.engine.dispose()  # closes the connections that were opened before the listener was added
    return storage


def _relax_sqlite(connection: sqlite3.Connection, record: object) -> None:
    del record
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
