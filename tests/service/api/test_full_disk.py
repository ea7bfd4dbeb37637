# A disk without room: told before anything is accepted, and a 507 where a write fails all the same.
from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from service.api.app import create_app
from service.artifacts import ArtifactStore
from service.data.upload import Upload
from service.db.session import Database
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, count_rows, sqlite_only

CSV = "x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(60))


def upload(client: TestClient) -> Any:
    return client.post("/v1/datasets", params={"filename": "a.csv"}, content=CSV)


@pytest.fixture
def full(settings: Settings, db: Database) -> Iterator[TestClient]:
    """An API that wants more room than any disk has."""
    wanting = settings.model_copy(update={"min_free_bytes": 1 << 62})
    with TestClient(create_app(wanting), raise_server_exceptions=False) as client:
        yield client


@sqlite_only
def test_below_the_floor_nothing_is_accepted_and_everything_can_be_read(
    full: TestClient, client: TestClient, spec: SpecMaker, db: Database
) -> None:
    job_id = client.post("/v1/jobs", json=spec()).json()["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    before = count_rows(db)
    problem = assert_problem(full.get("/readyz"), 503, "storage_full")
    assert str(1 << 62) in problem["detail"]
    for answer in (full.post("/v1/jobs", json=spec()), upload(full), full.post(f"/v1/jobs/{job_id}/retry")):
        assert "WARPTUNE_MIN_FREE_BYTES" in assert_problem(answer, 507, "storage_full")["detail"]
    assert count_rows(db) == before
    assert full.get(f"/v1/jobs/{job_id}").status_code == 200
    assert full.delete(f"/v1/jobs/{job_id}").status_code == 204  # it makes room


@sqlite_only
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(("owner", "method"), [(Upload, "write"), (ArtifactStore, "staged_dataset")])
def test_an_upload_for_which_there_is_no_room_is_a_507_and_leaves_nothing(
    client: TestClient, db: Database, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, number: int
) -> None:
    def write(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    before = count_rows(db)
    with monkeypatch.context() as broken:
        broken.setattr(owner, method, write)
        assert_problem(upload(client), 507, "storage_full")
    assert count_rows(db) == before
    assert upload(client).status_code == 201


@sqlite_only
def test_another_error_of_a_file_is_not_a_full_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Upload, "write", write)
    assert_problem(upload(client), 500, "internal_error")


@sqlite_only
def test_a_database_without_room_is_a_507(client: TestClient, spec: SpecMaker, db: Database) -> None:
    database = client.app.state.database  # type: ignore[attr-defined]

    def allow_no_page_more(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present number of pages instead

    event.listen(database.engine, "checkout", allow_no_page_more)
    answers = [client.post("/v1/jobs", json=spec(name="n" * 100)) for _ in range(40)]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert refused
    for answer in refused:
        assert_problem(answer, 507, "storage_full")
    assert len(client.get("/v1/jobs").json()["items"]) == 40 - len(refused)
