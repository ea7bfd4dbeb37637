# More trials, seeds or seconds for a job that has succeeded: a further look, at half the level, and never added twice.
from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.db.models import Arm, RecommendationRow
from service.db.session import Database
from service.errors import InvalidSpecError
from service.ledger import jobs
from service.result.job_result import JobResult
from service.settings import Settings
from service.spec.job import ExtendSpec, JobSpec
from service.states import JobState, TrialState
from service.submission.extend import extended
from service.training.run import Ended
from tests.conftest import SpecMaker
from tests.service.api.conftest import Submit, assert_problem, claim_job, count_rows, sqlite_only, succeed
from tests.service.conftest import get_job


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


@sqlite_only
@pytest.mark.parametrize("more", [{"trials": 3}, {"trials": 3, "seeds": 2}, {"trials": 3, "max_seconds": 0.4}])
def test_trials_need_seconds_where_an_arm_has_used_its_own(
    client: TestClient, submit: Submit, db: Database, more: dict[str, Any]
) -> None:
    job = submit(budget={"trials_per_arm": 2, "max_seconds": 1.5})
    succeed(claim_job(db))
    with db.write() as session:
        session.get_one(Arm, (job["id"], "adamw")).seconds_used = 1.9
    before = count_rows(db)
    (error,) = assert_problem(extend(client, job, **more), 422, "invalid_spec")["errors"]
    assert (error["field"], error["value"]) == ("max_seconds", more.get("max_seconds", 0.0))
    assert error["message"] == "must be above 0.4: arm adamw has used 1.9 of its 1.5 seconds"
    assert count_rows(db) == before
    assert extend(client, job, trials=3, max_seconds=0.5).status_code == 202


@sqlite_only
def test_seconds_alone_need_an_arm_that_lacked_them(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit(budget={"trials_per_arm": 2})
    succeed(claim_job(db))
    (error,) = assert_problem(extend(client, job, max_seconds=60.0), 422, "invalid_spec")["errors"]
    assert (error["field"], error["message"]) == ("max_seconds", "adds nothing: every arm has done its trials")
    assert extend(client, job, max_seconds=60.0, trials=1).status_code == 202


def test_a_verdict_on_the_same_runs_is_the_same_look(client: TestClient, done: dict[str, Any], db: Database) -> None:
    looks = []
    additions: tuple[dict[str, Any], ...] = ({"trials": 1}, {"trials": 1}, {"seeds": 2}, {"trials": 1})
    for more in additions:
        extend(client, done, **more)
        log = claim_job(db)
        finalists = [log.trials(arm)[0] for arm in ("warpadam", "adamw", "adamw_default")]
        seeds = range(100, 100 + log.spec.confirm.seeds)
        for _ in range(2):  # another worker plans nothing more
            log.plan_confirm_runs("confirm", finalists, seeds)
        looks.append(log.looks())
        with db.read() as session:
            verdict = JobResult.from_json(session.get_one(RecommendationRow, done["id"]).data)
        log.succeed(verdict)
    assert looks == [1, 1, 2, 2]


def test_a_new_finalist_is_a_new_look(client: TestClient, done: dict[str, Any], db: Database) -> None:
    extend(client, done, trials=1)
    log = claim_job(db)
    log.plan_confirm_runs("select", log.trials("adamw")[1:], [7])
    assert log.looks() == 1
    log.plan_confirm_runs("confirm", log.trials("adamw")[1:], [100, 101])
    assert log.looks() == get_job(db, done["id"]).looks == 2


@sqlite_only
@pytest.mark.parametrize("more", [{}, {"seeds": 2}, {"max_seconds": 60.0}])
def test_failed_runs_are_run_again_and_diverged_ones_are_not(
    client: TestClient, submit: Submit, db: Database, more: dict[str, Any]
) -> None:
    job = submit()
    succeed(log := claim_job(db))
    finalist = log.trials("warpadam")[0]
    ended = {100: TrialState.COMPLETE, 101: TrialState.FAILED, 102: TrialState.DIVERGED}
    for phase in ("select", "confirm"):
        for run in log.plan_confirm_runs(phase, [finalist], list(ended)):
            if run.trial_number == finalist.number and run.seed in ended:
                log.finish_confirm_run(run.id, Ended(ended[run.seed], 0.5, 0.5, cause="why"))

    assert extend(client, job, **more).status_code == 202
    log = claim_job(db)
    for phase in ("select", "confirm"):
        planned = log.plan_confirm_runs(phase, [finalist], list(ended))
        states = {run.seed: run.state for run in planned if run.trial_number == finalist.number and run.seed in ended}
        assert states == {**ended, 101: TrialState.QUEUED}
    assert log.looks() == 2


@sqlite_only
def test_a_limit_that_was_lowered_leaves_no_room_and_not_less(settings: Settings, spec: SpecMaker) -> None:
    twenty = JobSpec.model_validate(spec(budget={"trials_per_arm": 20}))
    with pytest.raises(InvalidSpecError) as caught:
        extended(twenty, ExtendSpec(trials=5), settings.model_copy(update={"max_trials": 10}))
    assert caught.value.errors[0].message == "must be 0: the job has 20 already, and the limit is 10"


def test_no_such_job(client: TestClient) -> None:
    assert_problem(client.post("/v1/jobs/job-0/extend", json={"seeds": 1}), 404, "not_found")
