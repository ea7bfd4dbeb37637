# Answers are kept while nothing is committed, and are never older than the last commit, whoever made it.
from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.api import cache
from service.api.app import create_app
from service.api.cache import CommitCache
from service.db import commits
from service.db.models import ApiKey, utc_now
from service.db.session import Database
from service.ledger import keys, queries
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import Submit, assert_problem, claim_job, search, sqlite_only
from tests.service.servers import FULL_POOL, postgresql_only


@pytest.fixture
def other(settings: Settings, db: Database) -> Iterator[TestClient]:
    """A second process of the API on the same database, as far as it matters here."""
    with TestClient(create_app(settings)) as opened:
        yield opened


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the list of jobs is read from the database; answers are kept for a minute."""
    monkeypatch.setattr(cache, "MAX_AGE_S", 60.0)
    monkeypatch.setattr(commits, "PATIENCE_S", 30.0)  # for busy machines
    calls: list[int] = []
    real = queries.jobs_page

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(1)
        return real(*given, **more)

    monkeypatch.setattr(queries, "jobs_page", counted)
    return calls


def test_an_answer_is_computed_once_while_nothing_is_committed(
    client: TestClient, submit: Submit, computed: list[int]
) -> None:
    submit()
    answers = [client.get("/v1/jobs") for _ in range(5)]
    assert len(computed) == 1
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["x-request-id"] for answer in answers}) == 5
    client.get("/v1/jobs?limit=1")
    assert len(computed) == 2


def test_whoever_writes_then_reads_sees_it_in_every_process(
    client: TestClient, other: TestClient, spec: SpecMaker, computed: list[int]
) -> None:
    for number in range(10):
        for reader in (client, other, client):
            assert len(reader.get("/v1/jobs").json()["items"]) == number
        job_id = (client, other)[number % 2].post("/v1/jobs", json=spec()).json()["id"]
        for reader in (other, client):
            assert reader.get("/v1/jobs").json()["items"][0]["id"] == job_id
            assert reader.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"
        (other, client)[number % 2].post(f"/v1/jobs/{job_id}/cancel")
        for reader in (other, client):
            assert reader.get(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
    assert len(computed) < 60


def test_what_a_worker_writes_is_seen(client: TestClient, submit: Submit, db: Database, computed: list[int]) -> None:
    job_id = submit()["id"]
    assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"
    assert client.get(f"/v1/jobs/{job_id}/trials").json()["items"] == []
    log = claim_job(db)
    assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "running"
    made = search(log, trials=3)
    assert len(client.get(f"/v1/jobs/{job_id}/trials").json()["items"]) >= len(made)
    assert client.get(f"/v1/jobs/{job_id}/trials/{made[-1].number}").json()["state"] == "complete"


def test_the_commit_of_another_program_is_seen(
    client: TestClient, submit: Submit, settings: Settings, computed: list[int]
) -> None:
    submit()
    assert client.get("/v1/jobs").json()["items"][0]["name"] != "renamed"
    program = (
        "import sys, sqlalchemy as sql\n"
        "with sql.create_engine(sys.argv[1]).begin() as connection: connection.execute(sql.text(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", program, settings.database_url, "UPDATE jobs SET name = 'renamed'"], check=True
    )
    assert client.get("/v1/jobs").json()["items"][0]["name"] == "renamed"


@postgresql_only
def test_what_was_committed_while_all_connections_ended_is_seen(
    client: TestClient, submit: Submit, db: Database, computed: list[int]
) -> None:
    submit()
    assert client.get("/v1/jobs").json()["items"][0]["name"] != "renamed"
    end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    with db.write() as session:
        session.execute(text(f"{end} WHERE datname = current_database() AND pid <> pg_backend_pid()"))
        session.execute(text("UPDATE jobs SET name = 'renamed'"))
    assert client.get("/v1/jobs").json()["items"][0]["name"] == "renamed"


@postgresql_only
def test_kept_answers_need_no_connection_of_the_pool(client: Any, submit: Submit, computed: list[int]) -> None:
    submit()
    kept = client.get("/v1/jobs")
    with ExitStack() as held:
        for _ in range(FULL_POOL):
            held.enter_context(client.app.state.database.engine.connect())
        assert client.get("/v1/jobs").content == kept.content
    assert len(computed) == 1


def test_one_project_never_gets_what_was_kept_for_another(
    client: TestClient, db: Database, spec: SpecMaker, computed: list[int]
) -> None:
    senders = {
        name: {"Authorization": f"Bearer {keys.create(db, project, scope)[0]}"}
        for name, project, scope in (
            ("ours", "ours", keys.Scope.SUBMIT),
            ("theirs", "theirs", keys.Scope.SUBMIT),
            ("admin", "ours", keys.Scope.ADMIN),
        )
    }
    made = {
        name: client.post("/v1/jobs", json=spec(), headers=senders[name]).json()["id"] for name in ("ours", "theirs")
    }
    client.get("/v1/datasets", headers=senders["admin"])  # the first use of a key is stored, and so is a first refusal
    assert_problem(client.get("/v1/jobs"), 401, "unauthorized")
    for _ in range(3):
        for name, headers in senders.items():
            found = {item["id"] for item in client.get("/v1/jobs", headers=headers).json()["items"]}
            assert found == (set(made.values()) if name == "admin" else {made[name]})
        assert client.get(f"/v1/jobs/{made['ours']}", headers=senders["ours"]).status_code == 200
        assert_problem(client.get(f"/v1/jobs/{made['ours']}", headers=senders["theirs"]), 404, "not_found")
        assert_problem(client.get("/v1/jobs"), 401, "unauthorized")
    assert len(computed) == 3


def test_a_revoked_key_stops_at_once(client: TestClient, db: Database, computed: list[int]) -> None:
    key, row = keys.create(db, "ours", keys.Scope.READ)
    headers = {"Authorization": f"Bearer {key}"}
    assert all(client.get("/v1/jobs", headers=headers).status_code == 200 for _ in range(3))
    keys.revoke(db, row.id)
    assert "revoked" in assert_problem(client.get("/v1/jobs", headers=headers), 401, "unauthorized")["detail"]


@sqlite_only
def test_a_key_expires_when_it_is_not_remembered_any_more(
    client: TestClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, row = keys.create(db, "ours", keys.Scope.READ, timedelta(hours=1))
    headers = {"Authorization": f"Bearer {key}"}
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    monkeypatch.setattr(keys, "utc_now", lambda: utc_now() + timedelta(hours=2))
    later = time.monotonic() + cache.MAX_AGE_S + 0.1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert_problem(client.get("/v1/jobs", headers=headers), 401, "unauthorized")
    assert row.id == db_key(db, row.id).id


def db_key(db: Database, key_id: str) -> ApiKey:
    with db.read() as session:
        row = session.get(ApiKey, key_id)
    assert row is not None
    return row


@sqlite_only
def test_a_client_that_has_the_answer_gets_304_until_it_changes(client: TestClient, submit: Submit) -> None:
    job_id = submit()["id"]
    first = client.get(f"/v1/jobs/{job_id}")
    etag = first.headers["etag"]
    for tags in (etag, f'"other", W/{etag}', "*"):
        again = client.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": tags})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert "content-length" not in again.headers
    assert client.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": '"other"'}).content == first.content
    client.post(f"/v1/jobs/{job_id}/cancel")
    changed = client.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


@sqlite_only
def test_an_error_is_not_kept_and_is_no_answer_to_a_condition(client: TestClient, submit: Submit) -> None:
    for _ in range(2):
        problem = client.get("/v1/jobs/job-0", headers={"If-None-Match": "*"})
        assert_problem(problem, 404, "not_found")
        assert "etag" not in problem.headers
    assert_problem(client.get("/v1/jobs?limit=0"), 422, "invalid_spec")


@sqlite_only
def test_kept_answers_count_in_the_metrics_of_their_route(client: TestClient, submit: Submit) -> None:
    job_id = submit()["id"]
    for _ in range(4):
        client.get(f"/v1/jobs/{job_id}")
    counted = [line for line in client.get("/metrics").text.splitlines() if line.startswith("warptune_http_requests")]
    (line,) = [line for line in counted if 'route="/v1/jobs/{job_id}"' in line and 'method="GET"' in line]
    assert line.endswith(" 4.0")


@sqlite_only
def test_a_replaced_file_is_noticed(client: TestClient, submit: Submit, settings: Settings) -> None:
    submit()
    assert client.get("/v1/jobs").status_code == 200
    file = Path(settings.database_url.removeprefix("sqlite:///"))
    file.rename(file.with_suffix(".away"))
    assert_problem(client.get("/v1/jobs"), 503, "database_replaced")


def test_one_computes_and_the_others_wait() -> None:
    kept: CommitCache[int] = CommitCache(10)
    calls = []

    async def compute() -> int:
        calls.append(1)
        await asyncio.sleep(0.01)
        return len(calls)

    async def ask() -> list[int | None]:
        return await asyncio.gather(*(kept.get("key", mark, compute) for mark in [1] * 5 + [2] * 5))

    assert asyncio.run(ask()) == [1] * 5 + [2] * 5
    assert len(calls) == 2


def test_without_a_mark_nothing_is_kept() -> None:
    kept: CommitCache[int] = CommitCache(10)
    values = iter(range(10))

    async def compute() -> int:
        return next(values)

    async def ask() -> list[int | None]:
        return [await kept.get("key", mark, compute) for mark in (None, None, 1, 1, None)]

    assert asyncio.run(ask()) == [0, 1, 2, 2, 3]


def test_a_request_that_is_cancelled_leaves_the_work_to_the_next() -> None:
    kept: CommitCache[int] = CommitCache(10)

    async def never() -> int:
        await asyncio.sleep(60)
        return 0

    async def at_once() -> int:
        return 1

    async def ask() -> int | None:
        first = asyncio.create_task(kept.get("key", 1, never))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(kept.get("key", 1, at_once))
        first.cancel()
        return await second

    assert asyncio.run(ask()) == 1


def test_what_is_too_old_does_not_wait_for_a_full_cache_to_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Value:
        pass

    kept: CommitCache[Value] = CommitCache(1000)
    made: list[weakref.ref[Value]] = []

    async def compute() -> Value:
        value = Value()
        made.append(weakref.ref(value))
        return value

    now = time.monotonic()
    monkeypatch.setattr(cache, "time", SimpleNamespace(monotonic=lambda: now))
    for name in ("a", "b"):
        asyncio.run(kept.get(name, 1, compute))
    assert None not in [value() for value in made]
    now += 2 * cache.MAX_AGE_S
    asyncio.run(kept.get("c", 2, compute))
    gc.collect()
    assert [value() is None for value in made] == [True, True, False]


def test_the_least_used_is_dropped_when_the_cache_is_full() -> None:
    kept: CommitCache[bytes] = CommitCache(100, len)
    computed = []

    async def ask(*names: str, size: int = 40) -> None:
        for name in names:

            async def compute(name: str = name) -> bytes:
                computed.append(name)
                return bytes(size)

            await kept.get(name, 1, compute)

    asyncio.run(ask("a", "b", "a", "c", "a", "b"))
    assert computed == ["a", "b", "c", "b"]
    asyncio.run(ask("large", "large", size=101))
    asyncio.run(ask("a", "b"))
    assert computed[4:] == ["large", "large"]
