# More trials, seeds or seconds for a job that has succeeded: a further look, at half the level, and never added twice.
from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.db.session import Database
from service.ledger import jobs
from service.states import JobState
from tests.service.api.conftest import Submit, assert_problem, claim_job, count_rows, sqlite_only, succeed


def extend(client: TestClient, job: dict[str, Any], key: str | None = None, **more: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(f"{job['links']['self']}/extend", json=more, headers=headers)


@pytest.fixture
def done(client: TestClient, submit: Submit, db: Database) -> dict[str, Any]:
    job = submit()
    succeed(claim_job(db))
    return job


def test_extended_job_is_queued_with_the_larger_spec_and_its_arms_reopened(
    client: TestClient, done: dict[str, Any]
) -> None:
    answer = extend(client, done, trials=3, seeds=2, max_seconds=10.0)
    assert answer.status_code == 202
    job = answer.json()
    assert (job["state"], job["finished_at"]) == ("queued", None)
    assert job["spec"]["budget"]["trials_per_arm"] == done["spec"]["budget"]["trials_per_arm"] + 3
    assert job["spec"]["budget"]["max_seconds"] == 610.0
    assert job["spec"]["confirm"]["seeds"] == 8
    assert {arm["state"] for arm in job["arms"]} == {"queued"}
    events = client.get(done["links"]["events"]).json()["items"]
    assert (events[-1]["kind"], events[-1]["data"]) == ("extended", {"trials": 3, "seeds": 2, "max_seconds": 10.0})


@sqlite_only
def test_seeds_alone_leave_the_search_as_it_is(client: TestClient, done: dict[str, Any]) -> None:
    assert {arm["state"] for arm in extend(client, done, seeds=2).json()["arms"]} == {"complete"}


@sqlite_only
def test_recommendation_of_an_extended_job_waits_and_the_earlier_one_outlives_a_cancellation(
    client: TestClient, done: dict[str, Any], db: Database
) -> None:
    before = client.get(done["links"]["recommendation"]).json()
    extend(client, done, seeds=2)
    assert_problem(client.get(done["links"]["recommendation"]), 409, "conflict")
    jobs.cancel(db, done["id"])
    assert client.get(done["links"]["recommendation"]).json() == before


def test_same_key_extends_once(client: TestClient, done: dict[str, Any], db: Database) -> None:
    first, second = extend(client, done, "a", seeds=2), extend(client, done, "a", seeds=2)
    assert first.json() == second.json()
    assert [r.headers["idempotent-replayed"] for r in (first, second)] == ["false", "true"]
    assert client.get(done["links"]["self"]).json()["spec"]["confirm"]["seeds"] == 8
    assert_problem(extend(client, done, "a", seeds=3), 422, "idempotency_key_reused")


@sqlite_only
def test_without_a_key_a_second_request_is_a_conflict_until_the_job_has_succeeded(
    client: TestClient, done: dict[str, Any], db: Database
) -> None:
    extend(client, done, seeds=2)
    before = count_rows(db)
    problem = assert_problem(extend(client, done, seeds=2), 409, "conflict")
    assert problem["detail"] == f"job {done['id']} is queued: only a job that has succeeded can be extended"
    assert count_rows(db) == before


@sqlite_only
@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, None])
def test_a_job_that_has_not_succeeded_cannot_be_extended(
    client: TestClient, submit: Submit, db: Database, state: JobState | None
) -> None:
    job = submit()
    if state:
        claim_job(db).end(state, "because")
    assert_problem(extend(client, job, seeds=2), 409, "conflict")


@sqlite_only
@pytest.mark.parametrize(
    ("more", "field", "expected"),
    [
        ({}, "trials", "must be above 0 unless seeds or max_seconds is"),
        ({"seeds": 59}, "seeds", "must be at most 58: the job has 6 already, and the limit is 64"),
        ({"trials": 9_999}, "trials", "must be at most 9998: the job has 2 already, and the limit is 10000"),
        (
            {"max_seconds": 604_800},
            "max_seconds",
            "must be at most 604200: the job has 600 already, and the limit is 604800",
        ),
        ({"seeds": -1}, "seeds", "greater than or equal to 0"),
        ({"seed": 1}, "seed", "Did you mean 'seeds'?"),
    ],
)
def test_what_cannot_be_added_is_refused(
    client: TestClient, done: dict[str, Any], db: Database, more: dict[str, Any], field: str, expected: str
) -> None:
    before = count_rows(db)
    (error,) = assert_problem(extend(client, done, **more), 422, "invalid_spec")["errors"]
    assert error["field"] == field
    assert expected in f"{error['message']}. {error['hint']}"
    assert count_rows(db) == before


@sqlite_only
@pytest.mark.parametrize(
    "parts",
    [{"objective": {"metric": "steps_to_target", "target": "baseline"}}, {"controls": ["adamw_more_steps"]}],
    ids=["target", "control"],
)
def test_trials_that_would_change_what_earlier_ones_were_judged_by_are_refused(
    client: TestClient, submit: Submit, db: Database, parts: dict[str, Any]
) -> None:
    job = submit(**parts)
    succeed(claim_job(db))
    (error,) = assert_problem(extend(client, job, trials=1), 422, "invalid_spec")["errors"]
    assert (error["field"], "more trials may change" in error["hint"]) == ("trials", True)
    assert extend(client, job, seeds=1).status_code == 202


def test_no_such_job(client: TestClient) -> None:
    assert_problem(client.post("/v1/jobs/job-0/extend", json={"seeds": 1}), 404, "not_found")
