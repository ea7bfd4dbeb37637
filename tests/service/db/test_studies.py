# Optuna's tables: their faults are those of the database.
from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from service.db.session import create_schema
from service.db.studies import Studies


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
