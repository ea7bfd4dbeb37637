# Optuna's tables: their faults are those of the database.
from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from service.db.session import Database, alembic_config, create_schema, require_known_tables
from service.db.studies import Studies, create_tables, require_current_studies, require_known_studies
from service.errors import DatabaseVersionError
from service.settings import Settings
from tests.service.servers import postgresql_only


@postgresql_only
def test_a_server_that_takes_no_writes_is_left(storage: optuna.storages.RDBStorage) -> None:
    def write_to_a_standby() -> None:
        with storage.engine.begin() as connection:
            pids.append(connection.scalar(text("SELECT pg_backend_pid()")))
            connection.execute(text("SET TRANSACTION READ ONLY"))
            connection.execute(text("DELETE FROM studies"))

    pids: list[int] = []
    for _ in range(2):
        with pytest.raises(OperationalError, match="read-only transaction"):
            write_to_a_standby()
    assert pids[0] != pids[1]


def test_a_study_that_cannot_be_deleted_raises_what_every_database_does(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/warptune.db"
    create_schema(url)
    with closing(Studies(url, wait_s=0.1)) as studies, closing(sqlite3.connect(tmp_path / "warptune.db")) as other:
        studies.open().create_new_study([], "one")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            studies.delete(["one"])
        other.rollback()
        studies.delete(["one", "none"])
        assert studies.open().get_all_studies() == []


def set_version(db: Database, version: str) -> None:
    with db.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def test_the_versions_that_optuna_knows_are_those_that_it_says(
    storage: optuna.storages.RDBStorage, db: Database
) -> None:
    latest = storage.get_head_version()
    assert require_known_studies(db) == (latest, latest)
    for version in storage.get_all_versions():
        set_version(db, version)
        assert require_known_studies(db) == (version, latest)


def test_tables_of_an_older_optuna_are_updated(settings: Settings, db: Database) -> None:
    set_version(db, "v3.0.0.d")
    with pytest.raises(DatabaseVersionError, match=r"has tables v3\.0\.0\.d of an older Optuna.*: warptune migrate$"):
        require_current_studies(db)
    with closing(Studies(settings.database_url)) as studies:
        studies.open().create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    require_current_studies(db)


def test_tables_of_a_newer_optuna_are_left_as_they_are(settings: Settings, db: Database) -> None:
    set_version(db, "v9.0.0")
    with (
        closing(Studies(settings.database_url)) as studies,
        pytest.raises(DatabaseVersionError, match=r"has tables v9\.0\.0 of a newer Optuna.*: pip install"),
    ):
        studies.open()
    with db.read() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "v9.0.0"


def test_our_tables_are_not_updated_beside_those_of_a_newer_optuna(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/warptune.db"
    create_tables(url)
    with closing(Studies(url)) as studies:
        studies.open()
    with closing(Database(url)) as db:
        revision = require_known_tables(db)[0]
        with db.engine.begin() as connection:
            command.stamp(alembic_config(connection), "0013_deletion")
        set_version(db, "v9.0.0")
        with pytest.raises(DatabaseVersionError, match="of a newer Optuna"):
            create_tables(url)
        assert require_known_tables(db)[0] == "0013_deletion" != revision


def test_a_database_without_tables_of_optuna_is_fine(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/warptune.db"
    create_schema(url)
    with closing(Database(url)) as empty:
        require_current_studies(empty)
