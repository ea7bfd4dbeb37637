# An Idempotency-Key makes it safe to send a job again: one key, one job, the same answer.
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from service.db.models import IdempotencyKey
from service.db.session import Database
from service.ledger import keys
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, claim_job, count_rows, sqlite_only, succeed


def key(value: str) -> dict[bytes, bytes]:
    return {b"Idempotency-Key": value.encode("latin-1")}


def test_same_key_and_body_replay_the_same_answer(client: TestClient, spec: SpecMaker, db: Database) -> None:
    first = client.post("/v1/jobs", json=spec(), headers=key("a"))
    second = client.post("/v1/jobs", json=spec(), headers=key("a"))
    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json() == first.json()
    assert second.headers["location"] == first.headers["location"]
    assert [r.headers["idempotent-replayed"] for r in (first, second)] == ["false", "true"]
    assert count_rows(db)["jobs"] == 1


@sqlite_only
def test_replay_is_the_first_answer_even_when_the_job_has_moved_on(
    client: TestClient, spec: SpecMaker, db: Database
) -> None:
    first = client.post("/v1/jobs", json=spec(), headers=key("a")).json()
    succeed(claim_job(db))
    assert client.post("/v1/jobs", json=spec(), headers=key("a")).json() == first
    assert client.get(first["links"]["self"]).json()["state"] == "succeeded"


@sqlite_only
def test_body_that_says_the_same_is_the_same(client: TestClient, spec: SpecMaker) -> None:
    first = client.post("/v1/jobs", json=spec(), headers=key("a")).json()
    reordered = dict(reversed(list(spec(seed=0, baselines=["adamw"]).items())))
    assert client.post("/v1/jobs", json=reordered, headers=key("a")).json() == first


def test_another_body_under_the_key_is_refused(client: TestClient, spec: SpecMaker, db: Database) -> None:
    client.post("/v1/jobs", json=spec(), headers=key("a"))
    before = count_rows(db)
    problem = assert_problem(
        client.post("/v1/jobs", json=spec(seed=1), headers=key("a")), 422, "idempotency_key_reused"
    )
    assert "'a'" in problem["detail"]
    assert count_rows(db) == before


def test_another_key_is_another_job(client: TestClient, spec: SpecMaker, db: Database) -> None:
    ids = {client.post("/v1/jobs", json=spec(), headers=key(value)).json()["id"] for value in ("a", "A", "a a", "é")}
    assert len(ids) == count_rows(db)["idempotency_keys"] == 4


@sqlite_only
def test_refused_body_does_not_use_up_the_key(client: TestClient, spec: SpecMaker, db: Database) -> None:
    before = count_rows(db)
    assert_problem(client.post("/v1/jobs", json=spec(baselines=["lion"]), headers=key("a")), 422, "invalid_spec")
    assert count_rows(db) == before
    assert client.post("/v1/jobs", json=spec(), headers=key("a")).headers["idempotent-replayed"] == "false"


def test_many_at_once_make_one_job(client: TestClient, spec: SpecMaker, db: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs", json=spec(), headers=key("a")), range(8)))
    assert [answer.status_code for answer in answers] == [202] * 8
    assert sorted(answer.headers["idempotent-replayed"] for answer in answers) == ["false", *["true"] * 7]
    assert all(answer.json() == answers[0].json() for answer in answers)
    counts = count_rows(db)
    assert (counts["jobs"], counts["idempotency_keys"], counts["job_arms"], counts["job_events"]) == (1, 1, 3, 1)


def test_many_bodies_at_once_under_one_key_make_one_job(client: TestClient, spec: SpecMaker, db: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.post("/v1/jobs", json=spec(seed=n), headers=key("a")), range(8)))
    accepted = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 422]
    assert (len(accepted), len(refused)) == (1, 7)
    assert {answer.json()["code"] for answer in refused} == {"idempotency_key_reused"}
    assert count_rows(db)["jobs"] == 1


@sqlite_only
@pytest.mark.parametrize(
    ("value", "expected"), [("", "at least 1 character"), ("x" * 256, "at most 255 characters")], ids=["empty", "long"]
)
def test_key_that_cannot_be_one_is_refused(
    client: TestClient, spec: SpecMaker, db: Database, value: str, expected: str
) -> None:
    before = count_rows(db)
    problem = assert_problem(client.post("/v1/jobs", json=spec(), headers=key(value)), 422, "invalid_spec")
    assert [error["field"] for error in problem["errors"]] == ["idempotency-key"]
    assert expected in problem["errors"][0]["message"]
    assert count_rows(db) == before


def test_longest_key_is_fine(client: TestClient, spec: SpecMaker) -> None:
    answers = [client.post("/v1/jobs", json=spec(), headers=key("x" * 255)).json() for _ in range(2)]
    assert answers[0] == answers[1]


def forget(db: Database, after_s: float) -> None:
    """Make all keys older."""
    with db.write() as session:
        session.execute(update(IdempotencyKey).values(created_s=IdempotencyKey.created_s - after_s))


def test_a_key_is_forgotten_after_a_day(client: TestClient, spec: SpecMaker, db: Database) -> None:
    first = client.post("/v1/jobs", json=spec(), headers=key("a")).json()
    forget(db, 86_400.0 - 60.0)
    assert client.post("/v1/jobs", json=spec(), headers=key("a")).json() == first
    forget(db, 120.0)
    second = client.post("/v1/jobs", json=spec(seed=1), headers=key("a"))
    assert (second.status_code, second.headers["idempotent-replayed"]) == (202, "false")
    assert second.json()["id"] != first["id"]
    assert client.post("/v1/jobs", json=spec(seed=1), headers=key("a")).json() == second.json()


def test_many_at_once_with_a_forgotten_key_make_one_job(client: TestClient, spec: SpecMaker, db: Database) -> None:
    client.post("/v1/jobs", json=spec(), headers=key("a"))
    forget(db, 90_000.0)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs", json=spec(), headers=key("a")), range(8)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count_rows(db)["jobs"] == 2


def test_forgotten_keys_of_everybody_are_deleted_with_the_next_new_one(
    client: TestClient, spec: SpecMaker, db: Database
) -> None:
    for value in ("a", "b"):
        client.post("/v1/jobs", json=spec(), headers=key(value))
    with db.write() as session:
        session.execute(update(IdempotencyKey).values(owner="another"))
    forget(db, 90_000.0)
    client.post("/v1/jobs", json=spec(), headers=key("c"))
    with db.read() as session:
        assert session.scalars(select(IdempotencyKey.key)).all() == ["c"]
    assert count_rows(db)["jobs"] == 3


def test_the_same_key_in_two_projects_is_two_keys(client: TestClient, spec: SpecMaker, db: Database) -> None:
    owners = ("vision", "text")
    senders = {owner: keys.create(db, owner, keys.Scope.SUBMIT)[0] for owner in owners}
    answers = [
        client.post("/v1/jobs", json=spec(), headers={b"Authorization": f"Bearer {sent}".encode(), **key("a")})
        for sent in senders.values()
    ]
    assert [answer.headers["idempotent-replayed"] for answer in answers] == ["false", "false"]
    assert [answer.json()["owner"] for answer in answers] == list(owners)


@sqlite_only
def test_deleted_job_frees_its_key(client: TestClient, spec: SpecMaker) -> None:
    first = client.post("/v1/jobs", json=spec(), headers=key("a")).json()
    assert client.delete(first["links"]["self"]).status_code == 204
    second = client.post("/v1/jobs", json=spec(seed=1), headers=key("a"))
    assert second.status_code == 202
    assert second.json()["id"] != first["id"]
