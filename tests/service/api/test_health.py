# Alive is not ready: the process answers /healthz whatever happens to its database and its store.
from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.db.session import Database
from service.settings import Settings
from service.version import VERSION
from tests.service.api.conftest import Submit, assert_problem, sqlite_only


def test_service_is_alive_and_ready(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "version": VERSION}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_service_without_its_tables_is_alive_but_not_ready(client: TestClient, db: Database) -> None:
    with db.write() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO gone"))
    assert_problem(client.get("/readyz"), 503, "not_ready")
    assert client.get("/healthz").status_code == 200


@sqlite_only
def test_service_without_its_store_is_not_ready(client: TestClient, settings: Settings) -> None:
    folder = Path(settings.artifacts_url)
    folder.write_text("in the way")
    assert_problem(client.get("/readyz"), 503, "not_ready")
    folder.unlink()
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("path", ["/readyz", "/dashboard", "/api/studies", "/static/bundle.js", "/csv/1"])
def test_tables_of_a_newer_optuna_are_noticed(client: TestClient, db: Database, path: str) -> None:
    use_newer_optuna(db)
    problem = assert_problem(client.get(path), 503, "database_version")
    assert "pip install --upgrade optuna" in problem["detail"]
    assert client.get("/v1/jobs").status_code == 200


def test_a_job_is_not_deleted_in_part_with_tables_of_a_newer_optuna(
    client: TestClient, db: Database, submit: Submit
) -> None:
    link = submit()["links"]["self"]
    with db.write() as session:
        (version,) = session.execute(text("SELECT version_num FROM alembic_version")).one()
    use_newer_optuna(db)
    assert_problem(client.delete(link), 503, "database_version")
    with db.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
    assert client.get("/readyz").status_code == 200
    assert client.delete(link).status_code == 204


def use_newer_optuna(db: Database) -> None:
    with db.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'v9.0.0'"))
