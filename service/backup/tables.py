"""Copies the rows of all tables, ours and Optuna's, from one database to another, which may be of another kind."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Integer, Table, delete, func, inspect, select

from service.db.models import Base, DatabaseIdentity
from service.db.session import Database, create_schema
from service.db.studies import Studies

ROWS: Final = 1_000
"""Rows that are read and written at once."""

OWN: Final = (DatabaseIdentity.__tablename__, "version_info")
"""Tables that say something about the database they are in."""


def tables() -> list[Table]:
    """Return the tables to copy, those that others refer to first."""
    from optuna.storages._rdb.models import BaseModel  # there is no public list of them

    both = (*Base.metadata.sorted_tables, *BaseModel.metadata.sorted_tables)
    return [table for table in both if table.name not in OWN]


def create_all(url: str) -> None:
    """Create our tables and Optuna's where they are missing, or update them to this version."""
    create_schema(url)
    with closing(Studies(url)) as studies:
        studies.open()


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """Yield a connection to which the database stays as it is now, whatever others commit. Nobody waits for it."""
    options = {"warptune_begin": "DEFERRED"}
    if database.url.get_backend_name() != "sqlite":
        options = {"isolation_level": "REPEATABLE READ"}
    with database.engine.connect().execution_options(**options) as connection, connection.begin():
        database.check_identity(connection)  # the first query decides which moment it is
        yield connection


def copy_rows(source: Connection, target: Connection) -> None:
    """Replace the rows of all tables of ``target`` by those of ``source``, or by none where it has no such table."""
    found = set(inspect(source).get_table_names())
    for table in reversed(tables()):
        target.execute(delete(table))
    for table in tables():
        if table.name in found:
            rows = source.execution_options(yield_per=ROWS).execute(select(table)).mappings()
            for part in rows.partitions():
                target.execute(table.insert(), [dict(row) for row in part])
            _continue_numbers(target, table)


def _continue_numbers(target: Connection, table: Table) -> None:
    """Let PostgreSQL number new rows after the copied ones. SQLite does so by itself."""
    column = next(iter(table.primary_key.columns))
    if target.dialect.name == "sqlite" or len(table.primary_key.columns) > 1 or not isinstance(column.type, Integer):
        return
    sequence = target.scalar(select(func.pg_get_serial_sequence(table.name, column.name)))
    if sequence is not None:
        largest = select(func.coalesce(func.max(column), 0) + 1).scalar_subquery()
        target.execute(select(func.setval(sequence, largest, False)))


def studies_in(connection: Connection) -> list[str]:
    """Return the names of the Optuna studies, each of which begins with the id of its job."""
    from optuna.storages._rdb.models import StudyModel

    if not inspect(connection).has_table(StudyModel.__tablename__):
        return []
    return sorted(connection.scalars(select(StudyModel.study_name)))


def delete_studies(database: Database, job_ids: Set[str]) -> None:
    """Delete the Optuna studies of some jobs."""
    with snapshot(database) as connection:
        names = [name for name in studies_in(connection) if name.split("/")[0] in job_ids]
    with closing(Studies(database.url.render_as_string(hide_password=False))) as studies:
        studies.delete(names)


@contextmanager
def in_file(path: Path) -> Iterator[Database]:
    """Yield the SQLite database in a file. It is made if it is missing, and updated to this version if it is older."""
    url = URL.create("sqlite", database=str(path)).render_as_string()  # quotes what has a meaning in a URL
    create_all(url)
    with closing(Database(url)) as database:
        yield database
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # one file holds everything
    Path(f"{path}.lock").unlink(missing_ok=True)
