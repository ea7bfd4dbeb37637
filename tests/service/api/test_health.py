# Alive is not ready: the process answers /healthz whatever happens to its database and its store.
from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient
from sqlalchemy import text

from service.db.session import Database
from service.settings import Settings
from service.version import VERSION
from tests.service.api.conftest import assert_problem, sqlite_only


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
