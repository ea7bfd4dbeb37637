"""Connections to the ledger's database, its transactions, and the creation of our tables (Optuna's: studies.py).

A transaction says at its beginning whether it will write. SQLite then takes its one write lock at once (BEGIN
IMMEDIATE), instead of failing at the first write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Connection, Engine, Float, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from service.db.models import Base

LOCK_TIMEOUT_S: Final = 60.0
"""Seconds to wait while another process writes or creates the schema."""

SCHEMA_LOCK: Final = 0x57617270
"""Key of the PostgreSQL advisory lock that is held while the schema is created."""

VERSION_TABLE: Final = "warptune_version"
"""Alembic's table for our migrations. The default name is taken by Optuna's table in the same database."""


def is_ours(name: str | None, kind: str, parents: object) -> bool:
    """Return whether a table belongs to our migrations; this is alembic's ``include_name``."""
    del parents
    return kind != "table" or name in Base.metadata.tables


class epoch_now(FunctionElement[float]):  # noqa: N801 - reads as SQL
    """SQL function: seconds since 1970 on the database's clock, current also within a transaction."""

    type = Float()
    inherit_cache = True


@compiles(epoch_now)
def _compile_epoch_now(element: epoch_now, compiler: SQLCompiler, **options: object) -> str:
    del element, options
    if compiler.dialect.name == "sqlite":
        return "((julianday('now') - 2440587.5) * 86400.0)"
    return "extract(epoch from clock_timestamp())::float8"


class Database:
    """One SQLAlchemy engine and the two kinds of transaction."""

    def __init__(self, url: str) -> None:
        self.url: URL = make_url(url)
        is_sqlite = self.url.get_backend_name() == "sqlite"
        arguments = {"timeout": LOCK_TIMEOUT_S, "check_same_thread": False} if is_sqlite else {}
        self.engine: Engine = create_engine(self.url, connect_args=arguments, pool_pre_ping=not is_sqlite)
        if is_sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that only reads."""
        with Session(self.engine.execution_options(warptune_begin="DEFERRED"), expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that writes. It is committed at the end, or rolled back on an exception."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def ping(self) -> None:
        """Run a query, so that a database that cannot be reached or has no schema raises its error."""
        with self.read() as session:
            session.execute(text("SELECT 1 FROM jobs WHERE 1 = 0"))

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _configure_sqlite(connection: sqlite3.Connection, record: object) -> None:
    del record
    connection.isolation_level = None  # transactions begin in _begin_sqlite
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('warptune_begin', 'IMMEDIATE')}")


def alembic_config(connection: Connection) -> Config:
    """Return the configuration of our migrations, bound to an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def schema_lock(url: str) -> Iterator[None]:
    """Hold the lock under which all processes create tables. Makes the folder of a SQLite file."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{parsed.database}.lock", timeout=LOCK_TIMEOUT_S):
            yield
        return
    with closing(Database(url)) as database, database.engine.connect() as connection:  # the end releases the lock
        if parsed.get_backend_name() == "postgresql":
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": SCHEMA_LOCK})
        yield


def schema_versions(database: Database) -> tuple[str | None, str | None]:
    """Return the revision that the tables of a database have, None without tables, and the one of this version."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        script = ScriptDirectory.from_config(alembic_config(connection))
        return context.get_current_revision(), script.get_current_head()


def create_schema(url: str) -> None:
    """Create our tables, or update them to this version. Several processes may do so at once."""
    with schema_lock(url), closing(Database(url)) as database, database.engine.begin() as connection:
        command.upgrade(alembic_config(connection), "head")
