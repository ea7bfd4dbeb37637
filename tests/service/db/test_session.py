from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.db.models import Base, Job
from service.db.session import (
    AWAY,
    VERSION_TABLE,
    Database,
    alembic_config,
    create_schema,
    epoch_now,
    is_away,
    is_ours,
    postgresql_arguments,
)
from service.errors import DatabaseReplacedError
from service.ledger import jobs
from service.spec.job import JobSpec
from tests.conftest import SpecMaker
from tests.service.servers import postgresql_only


def test_the_migrations_make_exactly_the_tables_of_the_models(db: Database) -> None:
    with db.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "include_name": is_ours, "compare_type": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_our_tables_and_optunas_share_a_database_without_a_common_name(db: Database) -> None:
    ours = set(Base.metadata.tables) | {VERSION_TABLE}
    everything = set(inspect(db.engine).get_table_names())
    assert ours <= everything
    assert {"studies", "trials", "alembic_version", "version_info"} <= everything - ours


def test_the_migrations_can_be_undone(db: Database) -> None:
    with db.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert not set(Base.metadata.tables) & set(inspect(db.engine).get_table_names())


def test_create_schema_may_be_repeated(database_url: str) -> None:
    create_schema(database_url)


def test_create_schema_from_several_processes_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/deep/er/fresh.db"
    code = (
        "from service.db.session import create_schema; from service.db.studies import Studies;"
        f"create_schema({url!r}); studies = Studies({url!r}); studies.open(); studies.close()"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors


def test_the_databases_clock_agrees_with_ours_and_moves(db: Database) -> None:
    with db.read() as session:
        first, second = (session.scalar(select(epoch_now())) for _ in range(2))
    assert first is not None
    assert second is not None
    assert second >= first
    assert abs(first - time.time()) < 60


def test_a_failed_write_leaves_nothing(db: Database) -> None:
    def insert_and_fail() -> None:
        with db.write() as session:
            session.execute(text("INSERT INTO idempotency_keys VALUES ('a', 'k', 'x', 'nobody', '{}', 0)"))
            raise RuntimeError

    with pytest.raises(Exception, match=r"(?i)foreign key|^$"):
        insert_and_fail()
    with db.read() as session:
        assert session.execute(text("SELECT count(*) FROM idempotency_keys")).scalar() == 0


def test_a_database_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    missing = Database(f"sqlite:///{tmp_path}/nowhere/x.db")
    with pytest.raises(Exception, match="unable to open database file"):
        missing.ping()
    missing.close()
    assert not os.path.exists(tmp_path / "nowhere")


def test_a_statement_that_the_database_never_takes_is_no_outage(db: Database) -> None:
    too_large = {
        "sqlite": "SELECT 1 FROM " + ", ".join(f"jobs AS j{i}" for i in range(100)),
        "postgresql": "SELECT lpad('', 2147483647)",
    }
    with db.read() as session, pytest.raises(OperationalError) as refused:
        session.execute(text(too_large[db.url.get_backend_name()]))
    assert not is_away(refused.value)


def test_a_database_that_is_locked_is_away(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/warptune.db"
    create_schema(url)
    with closing(Database(url, wait_s=0.1)) as locked, closing(sqlite3.connect(tmp_path / "warptune.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with locked.read() as session, pytest.raises(OperationalError) as refused:
            session.execute(text("DELETE FROM jobs"))
    assert is_away(refused.value)


def test_a_database_is_known_by_its_id_and_one_without_tables_is_another(db: Database) -> None:
    db.ping()
    with db.write() as session:
        session.execute(text("ALTER TABLE database_identity RENAME TO gone"))
    db.engine.dispose()
    with pytest.raises(DatabaseReplacedError, match="deleted or replaced"):
        db.ping()
    with closing(Database(db.url.render_as_string(hide_password=False))) as other, other.write() as session:
        session.execute(text("ALTER TABLE gone RENAME TO database_identity"))
    db.ping()


def test_a_process_may_begin_before_the_tables_are_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    with closing(Database(url)) as early:
        with early.read() as session:
            assert session.scalar(text("SELECT 1")) == 1
        create_schema(url)
        early.ping()


def test_what_is_changed_in_a_session_that_reads_is_not_stored(db: Database, spec: SpecMaker) -> None:
    with db.write() as session:
        job_id = jobs.add(session, JobSpec.model_validate(spec()), ["warpadam", "adamw"]).id
    with db.read() as session:
        job = jobs.require_job(session, job_id)
        job.name = "changed"
        session.scalars(select(Job)).all()
    with db.read() as session:
        assert jobs.require_job(session, job_id).name != "changed"


def transaction_status(session: Session) -> Any:
    connection: Any = session.connection().connection.driver_connection
    return connection.info.transaction_status


@postgresql_only
def test_a_read_opens_no_transaction_and_a_write_after_it_does(db: Database, spec: SpecMaker) -> None:
    idle, in_transaction = 0, 2  # libpq's PQTRANS_IDLE and PQTRANS_INTRANS
    with db.read() as session:
        session.scalars(select(Job)).all()
        assert transaction_status(session) == idle
    with db.write() as session:
        session.scalars(select(Job)).all()
        assert transaction_status(session) == in_transaction


@postgresql_only
def test_a_connection_that_the_server_is_ending_is_replaced(db: Database) -> None:
    end = text("SELECT pg_terminate_backend(:pid)")  # it answers before that process has ended
    with closing(Database(db.url.render_as_string(hide_password=False))) as other:
        for _ in range(100):
            with other.read() as session:
                pid = session.scalar(text("SELECT pg_backend_pid()"))
            with db.read() as session:
                assert session.scalar(end, {"pid": pid})
            with other.read() as session:
                assert session.scalar(text("SELECT 1")) == 1


@postgresql_only
def test_a_connection_that_was_just_made_is_not_asked_whether_it_answers(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow server would be refused twice in a row, and SQLAlchemy then says that a connection is closed."""
    db.ping()
    asked: list[object] = []
    monkeypatch.setattr(Database, "_answers", lambda self, connection: asked.append(connection))
    db.ping()
    assert len(asked) == 1
    db.ping()
    assert len(asked) == 2


@postgresql_only
def test_a_server_that_takes_no_writes_is_away_and_its_connections_are_given_up(db: Database) -> None:
    """After a failover the service may still be connected to the server that is the standby now."""

    def write_to_a_standby() -> None:
        with db.write() as session:
            session.execute(text("SET TRANSACTION READ ONLY"))
            session.execute(text("UPDATE jobs SET name = name"))

    with db.read() as session:
        before = session.scalar(text("SELECT pg_backend_pid()"))
    with pytest.raises(AWAY, match="read-only transaction"):
        write_to_a_standby()
    with db.write() as session:
        session.execute(text("UPDATE jobs SET name = name"))
        assert session.scalar(text("SELECT pg_backend_pid()")) != before


@pytest.mark.parametrize(("given", "expected"), [("", 30), ("?keepalives_idle=7", 7)])
def test_a_host_that_vanishes_is_given_up_unless_the_url_says_otherwise(given: str, expected: int) -> None:
    with closing(Database(f"postgresql+psycopg://me@127.0.0.1:1/x{given}")) as database:
        _, from_url = database.engine.dialect.create_connect_args(database.url)
        used = {**from_url, **postgresql_arguments(database.url, 4.0)}
    assert (int(used["keepalives_idle"]), used["tcp_user_timeout"]) == (expected, 60_000)
