# A database that is gone, replaced, locked or stopped: requests say so, and nothing is accepted and then lost.
from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.engine import make_url

from service.api import deps, events
from service.api.app import create_app
from service.db.session import PING_SHARE, Database, create_schema, postgresql_arguments
from service.errors import DatabaseReplacedError
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import Submit, assert_problem, sqlite_only
from tests.service.servers import postgresql_only, stopped


@pytest.fixture
def file(settings: Settings) -> Path:
    """The SQLite file."""
    return Path(settings.database_url.removeprefix("sqlite:///"))


def remove(file: Path) -> None:
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()


def requests(client: TestClient, spec: dict[str, Any]) -> Iterator[Any]:
    """Send one request to every route of jobs and datasets."""
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            if not path.startswith(("/v1/jobs", "/v1/datasets")):
                continue  # a catalogue, which is in the code
            url = path.replace("{job_id}", "job-0").replace("{dataset_id}", "ds-0").replace("{number}", "0")
            body: dict[str, Any] = {"json": spec}
            if url.endswith("/extend"):
                body = {"json": {"seeds": 1}}
            elif (url, method) == ("/v1/datasets", "post"):
                body = {"content": "x,y\n1,2\n", "params": {"filename": "a.csv"}}
            if method in ("get", "delete"):
                body = {"params": {"ids": "job-0,job-1"}} if url.endswith("/compare") else {}
            yield client.request(method, url, **body)


@sqlite_only
def test_a_deleted_database_is_noticed_and_not_made_again(
    client: TestClient, submit: Submit, spec: SpecMaker, file: Path, tmp_path: Path
) -> None:
    job_id = submit()["id"]
    kept = tmp_path / "kept.db"
    file.rename(kept)
    assert_problem(client.get("/readyz"), 503, "database_replaced")
    answers = list(requests(client, spec()))
    assert len(answers) > 15
    for answer in answers:
        assert_problem(answer, 503, "database_replaced")
    assert not file.exists()
    kept.rename(file)
    assert client.get("/readyz").status_code == 200
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200


@sqlite_only
def test_a_stream_of_events_ends_when_the_database_is_deleted(submit: Submit, file: Path, db: Database) -> None:
    job_id = submit()["id"]
    db.ping()
    file.rename(file.with_suffix(".away"))

    async def stream() -> list[bytes]:
        return [piece async for piece in events._events(db, job_id, None, lambda: False)]

    assert asyncio.run(stream()) == []


@sqlite_only
def test_another_database_in_the_place_of_the_first_gets_no_job(
    client: TestClient, submit: Submit, spec: SpecMaker, file: Path, settings: Settings
) -> None:
    submit()
    remove(file)
    create_schema(settings.database_url)
    problem = assert_problem(client.get("/readyz"), 503, "database_replaced")
    assert "restart the service" in problem["detail"]
    for answer in requests(client, spec()):
        assert_problem(answer, 503, "database_replaced")
    with closing(Database(settings.database_url)) as other, other.read() as session:
        assert session.scalar(text("SELECT count(*) FROM jobs")) == 0
    with TestClient(create_app(settings)) as restarted:
        assert restarted.get("/readyz").status_code == 200


def test_tables_that_were_made_again_in_the_same_database_are_noticed(
    client: TestClient, submit: Submit, spec: SpecMaker, db: Database
) -> None:
    job_id = submit()["id"]
    with db.write() as session:
        session.execute(text("UPDATE database_identity SET id = 'another'"))
    assert_problem(client.get("/readyz"), 503, "database_replaced")
    assert_problem(client.post("/v1/jobs", json=spec()), 503, "database_replaced")
    assert_problem(client.post(f"/v1/jobs/{job_id}/retry"), 503, "database_replaced")


def test_the_address_of_the_database_is_not_told() -> None:
    database = Database("postgresql+psycopg://me:hidden-word@127.0.0.1:1/none")
    database._recognise("first")
    with pytest.raises(DatabaseReplacedError, match="WARPTUNE_DATABASE_URL") as caught:
        database._recognise("second")
    assert not any(part in str(caught.value) for part in ("hidden-word", "me:", "127.0.0.1"))
    database.close()


@sqlite_only
def test_a_locked_database_is_waited_for_only_for_a_moment(
    settings: Settings, spec: SpecMaker, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deps, "WAIT_S", 0.05)
    with TestClient(create_app(settings)) as client, closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_problem(client.post("/v1/jobs", json=spec()), 503, "database_unavailable")
        assert client.get("/v1/jobs").status_code == 200
        other.execute("ROLLBACK")
        assert client.post("/v1/jobs", json=spec()).status_code == 202


@postgresql_only
def test_a_locked_row_is_waited_for_only_for_a_moment(
    settings: Settings, spec: SpecMaker, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deps, "WAIT_S", 0.05)
    with TestClient(create_app(settings)) as client:
        job_id = client.post("/v1/jobs", json=spec()).json()["id"]
        with db.write() as session:
            session.execute(text("UPDATE jobs SET name = name"))
            assert_problem(client.post(f"/v1/jobs/{job_id}/cancel"), 503, "database_unavailable")
        assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202


@postgresql_only
def test_a_server_that_does_not_answer_is_told_from_a_busy_one(
    client: TestClient, submit: Submit, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()["id"]
    with db.read() as session:
        data = session.scalar(text("SHOW data_directory"))
    with stopped(data):
        assert_problem(client.get(f"/v1/jobs/{job_id}"), 503, "database_unavailable")
        assert_problem(client.get("/readyz"), 503, "not_ready")
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200


@postgresql_only
def test_a_server_that_takes_no_writes_for_a_moment_is_no_bug(
    client: TestClient, submit: Submit, spec: SpecMaker, db: Database, settings: Settings
) -> None:
    submit()
    name = db.url.database
    with db.write() as session:
        session.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    with TestClient(create_app(settings)) as other:
        assert other.get("/v1/jobs").status_code == 200
        assert_problem(other.post("/v1/jobs", json=spec()), 503, "database_unavailable")
        with db.write() as session:
            session.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
        assert other.post("/v1/jobs", json=spec()).status_code == 202


def test_the_waits_of_a_request_together_take_at_most_five_seconds() -> None:
    """Either for a lock or the pool, or for an answer on an open connection and then for another connection."""
    assert deps.WAIT_S <= 5.0
    timeout_s = postgresql_arguments(make_url("postgresql://"), deps.WAIT_S)["connect_timeout"]
    assert PING_SHARE * deps.WAIT_S + timeout_s <= 5.0
