"""Connections to the ledger's database, its transactions, and the creation of our tables (Optuna's: studies.py).

A transaction says at its beginning whether it will write. SQLite then takes its one write lock at once (BEGIN
IMMEDIATE), instead of failing at the first write.

What a project may see is decided here too: :meth:`Database.of` gives a database whose queries skip the jobs and
datasets of other projects, whatever the query says.
"""

from __future__ import annotations

import copy
import json
import os
import re
import select as sockets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Connection, Engine, Float, create_engine, event, select, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from service.db.models import Base, DatabaseIdentity, Owned
from service.errors import DatabaseReplacedError, DatabaseVersionError
from service.settings import LOCAL_PROJECT, require_folder
from service.version import VERSION

LOCK_TIMEOUT_S: Final = 60.0
"""Seconds to wait while another process writes or creates the schema."""

PING_SHARE: Final = 0.25
"""Share of the wait for a database that PostgreSQL gets to answer on an open connection. The rest is for a new one."""

UNDEFINED_TABLE: Final = "42P01"
"""SQLSTATE of PostgreSQL for a table that is not there. SQLite says so in words."""

READ_ONLY: Final = "25006"
"""SQLSTATE of PostgreSQL for a write to a server that takes none, such as the standby after a failover."""

AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError)
"""What is raised while the database cannot be used, and nobody but its operator is to blame."""

OVER_A_LIMIT: Final = "54"
"""Class of the SQLSTATEs of PostgreSQL for a statement that is over one of its limits. SQLite has SQLITE_ERROR."""

VANISHED: Final = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""After a minute without a sign of life from its host, libpq gives a connection up, also in the middle of a query."""

EMPTY_QUERY: Final = 0
"""The status that libpq gives the answer to a query without text, PGRES_EMPTY_QUERY."""

IDENTITY: Final = select(DatabaseIdentity.id)

SCHEMA_LOCK: Final = 0x57617270
"""Key of the PostgreSQL advisory lock that is held while the schema is created."""

VERSION_TABLE: Final = "warptune_version"
"""Alembic's table for our migrations. The default name is taken by Optuna's table in the same database."""

NUMBERED: Final = re.compile(r"\d{4}_")
"""How the revisions of our tables begin, the later ones with higher numbers."""

LONE_SURROGATE: Final = re.compile("[\\ud800-\\udfff]")
"""Half of a character. Python reads a byte of a file name that is not UTF-8 as one."""


def is_away(error: BaseException) -> bool:
    """Return whether an error says that the database cannot be used for now.

    The drivers raise the same kinds of errors for statements that they would refuse each time.
    """
    if not isinstance(error, AWAY):
        return False
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_ERROR
    return not (getattr(cause, "sqlstate", None) or "").startswith(OVER_A_LIMIT)


def storable(text: str) -> str:
    r"""Return text that every database takes: NULs and lone surrogates are written out, as ``\x00`` and ``\udce9``."""
    if text.isascii() and "\0" not in text:
        return text
    return LONE_SURROGATE.sub(_written_out, text).replace("\0", r"\x00")


def _written_out(found: re.Match[str]) -> str:
    return rf"\u{ord(found[0]):x}"


def _to_json(value: object) -> str:
    r"""Return JSON for a column. Lone surrogates are written out, because no answer could repeat them."""
    return LONE_SURROGATE.sub(lambda found: "\\" + _written_out(found), json.dumps(value, ensure_ascii=False))


def _storable_parameters(parameters: Any) -> Any:
    """Return the parameters of a statement, or of each of its rows, with text that can be stored."""
    if isinstance(parameters, str):
        return storable(parameters)
    if isinstance(parameters, Mapping):
        return {name: _storable_parameters(value) for name, value in parameters.items()}
    if isinstance(parameters, list | tuple):
        return type(parameters)(map(_storable_parameters, parameters))
    return parameters


def _make_storable(*about: Any) -> tuple[str, Any]:
    """Handle the event ``before_cursor_execute`` of an engine."""
    _, _, statement, parameters, *_ = about
    return statement, _storable_parameters(parameters)


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


def postgresql_arguments(url: URL, wait_s: float) -> dict[str, int]:
    """Return how to connect to PostgreSQL: how long that may take, out of the whole wait, and :data:`VANISHED`."""
    chosen = {name: value for name, value in VANISHED.items() if name not in url.query}
    return {"connect_timeout": max(1, int((1 - PING_SHARE) * wait_s)), **chosen}


EVERY_PROJECT: Final = "warptune_every_project"
"""Execution option of a query that protects or counts what others have. Its answer must not show what that is."""


class ProjectSession(Session):
    """A session for one project: its ``info`` has the project as ``owner``, and whether it ``sees_all``."""


@event.listens_for(ProjectSession, "do_orm_execute")
def _skip_other_projects(state: ORMExecuteState) -> None:
    owner: str = state.session.info["owner"]
    if not state.session.info["sees_all"] and not state.execution_options.get(EVERY_PROJECT):
        own = with_loader_criteria(Owned, lambda table: table.owner == owner, include_aliases=True)
        state.statement = state.statement.options(own)


@event.listens_for(ProjectSession, "before_flush")
def _sign_new_rows(session: Session, *_: object) -> None:
    for row in session.new:
        if isinstance(row, Owned) and not (session.info["sees_all"] and row.owner):
            row.owner = session.info["owner"]


class Database:
    """One SQLAlchemy engine and the two kinds of transaction.

    It remembers which database it began with. A SQLite file that was deleted or moved away since is noticed before each
    transaction, another database when a connection is made and by :meth:`check_identity`.

    Args:
        url: SQLAlchemy URL.
        wait_s: Seconds to wait for a lock that another process holds, for a free connection of the pool, or for a
            PostgreSQL server that does not answer.

    Attributes:
        owner: The project that new jobs and datasets belong to.
    """

    def __init__(self, url: str, wait_s: float = LOCK_TIMEOUT_S) -> None:
        self.url: URL = make_url(url)
        self._wait_s, self._identity = wait_s, ""
        self.owner, self._sees_all = LOCAL_PROJECT, True
        is_sqlite = self.url.get_backend_name() == "sqlite"
        arguments: dict[str, Any] = {"timeout": wait_s, "check_same_thread": False}
        if not is_sqlite:
            arguments = postgresql_arguments(self.url, wait_s)
        self.engine: Engine = create_engine(
            self.url, connect_args=arguments, pool_timeout=wait_s, json_serializer=_to_json
        )
        options = {"warptune_begin": "DEFERRED"} if is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reading = self.engine.execution_options(**options)
        event.listen(self.engine, "before_cursor_execute", _make_storable, retval=True)
        event.listen(self.engine, "handle_error", leave_a_standby)
        event.listen(self.engine, "connect", self._on_connect)
        event.listen(self.engine, "checkout", self._on_checkout)
        if is_sqlite:
            event.listen(self.engine, "do_connect", self._before_connect)
            event.listen(self.engine, "begin", _begin_sqlite)

    def of(self, project: str, *, sees_all: bool = False) -> Database:
        """Return this database as a project may use it: with its own jobs and datasets only, unless ``sees_all``."""
        own = copy.copy(self)  # it shares the engine, whose connections check that this is still the same database
        own.owner, own._sees_all = project, sees_all
        return own

    def _session(self, bind: Engine, *, autoflush: bool = True) -> Session:
        info = {"owner": self.owner, "sees_all": self._sees_all}
        return ProjectSession(bind, expire_on_commit=False, autoflush=autoflush, info=info)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that only reads. What is changed in it is not stored.

        On PostgreSQL it has no transaction, because beginning and ending one would wait for the server twice. Nothing
        else changes: at the level READ COMMITTED each query sees what was committed before it, with or without one.
        """
        with self._session(self._reading, autoflush=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that writes. It is committed at the end, or rolled back on an exception."""
        with self._session(self.engine) as session, session.begin():
            yield session

    def connect_apart(self) -> Any:
        """Return a connection of the driver that does not count in the pool. The caller closes it.

        Raises:
            DatabaseReplacedError: It is not the database that this process began with.
        """
        pooled = self.engine.raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        return connection

    def ping(self) -> None:
        """Run a query, so that a database that cannot be reached or has no schema raises its error.

        Raises:
            DatabaseReplacedError: It is not the database that this process began with.
        """
        with self.read() as session:
            session.execute(text("SELECT 1 FROM jobs WHERE 1 = 0"))
            self.check_identity(session)

    def check_identity(self, session: Session | Connection) -> None:
        """Check that this is the database that the process began with.

        Raises:
            DatabaseReplacedError: It is another one.
        """
        self._recognise(session.scalar(IDENTITY) or "")

    def identity(self) -> str:
        """Return the random id of the database that the process began with."""
        if not self._identity:  # nothing has connected yet
            self.ping()
        return self._identity

    def _recognise(self, found: str) -> None:
        """Remember the id of the first database that has one; refuse every other one."""
        if self._identity and found != self._identity:
            raise DatabaseReplacedError(
                "the database (WARPTUNE_DATABASE_URL) is not the one that this process began with: it was deleted or "
                "replaced. Put the old one back, or restart the service to begin with what is there now"
            )
        self._identity = found

    def _before_connect(self, *_: object) -> None:
        """Do not let SQLite make an empty file where the one that we know is gone."""
        if self._identity and self._file() is None:
            self._recognise("")

    def _on_connect(self, connection: Any, record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        if isinstance(connection, sqlite3.Connection):
            _configure_sqlite(connection)
            record.info["file"] = self._file()
        else:
            connection.autocommit = True
            cursor.execute(f"SET lock_timeout = {int(1000 * self._wait_s)}")
        try:
            row = cursor.execute(str(IDENTITY)).fetchone()
        except self.engine.dialect.loaded_dbapi.Error as error:
            if getattr(error, "sqlstate", None) != UNDEFINED_TABLE and "no such table" not in str(error):
                raise
            row = None  # there are no tables yet, or no more
        try:
            self._recognise(row[0] if row else "")
        except DatabaseReplacedError:
            connection.close()
            raise
        if not isinstance(connection, sqlite3.Connection):
            connection.autocommit = False
        record.info["is_new"] = True

    def _on_checkout(self, connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
        """Refuse a connection from the pool that leads nowhere, so that the pool makes another one.

        A new one has just answered. If it were refused too, SQLAlchemy would give up with an InvalidRequestError.
        """
        del proxy
        if record.info.pop("is_new", False):
            return
        is_sqlite = isinstance(connection, sqlite3.Connection)
        if (record.info.get("file") != self._file()) if is_sqlite else not self._answers(connection):
            raise DisconnectionError

    def _answers(self, connection: Any) -> bool:
        """Tell whether a PostgreSQL server answers on an open connection. A stopped one keeps its connections open."""
        wire, socket = connection.pgconn, sockets.poll()
        try:
            socket.register(wire.socket, sockets.POLLIN)
            wire.send_query(b"")
            while wire.is_busy():
                if not socket.poll(1000 * PING_SHARE * self._wait_s):
                    return False
                wire.consume_input()
            while result := wire.get_result():
                if result.status != EMPTY_QUERY:  # the last words of a server that ends the connection
                    return False
        except self.engine.dialect.loaded_dbapi.Error:
            return False
        return True

    def _file(self) -> tuple[int, int] | None:
        """Return what identifies the file of SQLite; None if there is no file."""
        try:
            found = os.stat(self.url.database or "")
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def leave_a_standby(context: ExceptionContext) -> None:
    """Treat a server that takes no writes as one that has gone: drop its connections, and raise the same error."""
    error = context.sqlalchemy_exception
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY and isinstance(error, DBAPIError):
        context.is_disconnect = True
        raise OperationalError(error.statement, error.params, context.original_exception, connection_invalidated=True)


def _configure_sqlite(connection: sqlite3.Connection) -> None:
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
        require_folder(Path(parsed.database).parent)
        with FileLock(f"{parsed.database}.lock", timeout=LOCK_TIMEOUT_S):
            yield
        return
    with closing(Database(url)) as database, database.engine.connect() as connection:  # the end releases the lock
        if parsed.get_backend_name() == "postgresql":
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": SCHEMA_LOCK})
        yield


def _revisions(database: Database) -> tuple[str | None, ScriptDirectory]:
    """Return the revision that the tables of a database have, None without tables, and all that this version knows."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return context.get_current_revision(), ScriptDirectory.from_config(alembic_config(connection))


def require_known_tables(database: Database) -> tuple[str | None, str | None]:
    """Return the revision that the tables of a database have, None without tables, and the one of this version.

    Raises:
        DatabaseVersionError: This version does not know them: a newer one, an early development version or another
            branch has made or updated them.
    """
    current, known = _revisions(database)
    latest = known.get_current_head()
    if current is not None and current not in {revision.revision for revision in known.walk_revisions()}:
        has = f"the database {database.url.render_as_string()} has tables {current} of"
        if NUMBERED.match(current) and current[:4] > str(latest)[:4]:
            raise DatabaseVersionError(
                f"{has} a newer warptune; this one, {VERSION}, knows them up to {latest}: update warptune"
            )
        raise DatabaseVersionError(
            f"{has} a development version before {VERSION}, or of another branch. This one, {VERSION}, cannot read or "
            "update them: use the warptune that made them, or another database (WARPTUNE_DATABASE_URL)"
        )
    return current, latest


def require_current_tables(database: Database) -> None:
    """Check that a database has the tables of this version.

    Raises:
        DatabaseVersionError: It has others, or none.
    """
    current, latest = require_known_tables(database)
    if current is None:
        raise DatabaseVersionError(
            f"the database {database.url.render_as_string()} has no tables of warptune: check WARPTUNE_DATABASE_URL"
        )
    if current != latest:
        raise DatabaseVersionError(
            f"the database {database.url.render_as_string()} has tables {current} of an older warptune, and this one "
            f"needs {latest}. Back them up with the older one, then update them: warptune migrate"
        )


def create_schema(url: str) -> None:
    """Create our tables, or update them to this version. Several processes may do so at once.

    Raises:
        DatabaseVersionError: This version does not know them.
    """
    with schema_lock(url), closing(Database(url)) as database:
        require_known_tables(database)
        with database.engine.begin() as connection:
            command.upgrade(alembic_config(connection), "head")
