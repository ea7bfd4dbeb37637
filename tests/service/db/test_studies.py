# Optuna's tables: their faults are those of the database.
from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from service.db.session import create_schema
from service.db.studies import Studies
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
