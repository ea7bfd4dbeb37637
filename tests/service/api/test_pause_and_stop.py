# Requests that change how a job runs: pause, resume and stop. What a worker makes of them is in test_paused_jobs.py.
from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.db.models import Job
from service.db.session import Database
from service.errors import LeaseLostError
from service.ledger import jobs
from service.states import JobState, TrialState
from tests.service.api.conftest import Submit, assert_problem, claim_job, search, sqlite_only, succeed
from tests.service.conftest import get_job, get_trials


def ask(client: TestClient, verb: str, job_id: str) -> dict[str, Any]:
    answer = client.post(f"/v1/jobs/{job_id}/{verb}")
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def event_kinds(client: TestClient, job_id: str) -> list[str]:
    return [event["kind"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]


def expire(db: Database, job_id: str) -> None:
    with db.write() as session:
        session.query(Job).filter_by(id=job_id).update({"lease_expires_s": 1.0})


def test_a_queued_job_is_paused_at_once_and_no_worker_takes_it_until_it_is_resumed(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job_id = submit()["id"]
    job = ask(client, "pause", job_id)
    assert (job["state"], job["pause_requested"], job["queue_position"]) == ("paused", False, None)
    other = submit()["id"]
    assert claim_job(db).job_id == other
    job = ask(client, "resume", job_id)
    assert (job["state"], job["queue_position"]) == ("queued", 1)
    assert claim_job(db).job_id == job_id
    assert event_kinds(client, job_id) == ["submitted", "paused", "resumed", "claimed"]


def test_a_running_job_is_paused_when_its_worker_gives_it_back(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    log.start_arm("warpadam")
    trial = log.add_trial("warpadam", {"lr": 0.1}, running=True)
    for _ in range(2):  # sent twice, it has one effect
        job = ask(client, "pause", job_id)
        assert (job["state"], job["pause_requested"]) == ("running", True)
    assert log.requests() == (False, True, False)
    log.requeue_trial(trial.id, 12.5)
    assert not log.release()
    job = ask(client, "pause", job_id)
    assert (job["state"], job["pause_requested"]) == ("paused", False)
    assert job["arms"][0]["seconds_used"] == 12.5
    row = get_job(db, job_id)
    assert (row.lease_worker, row.lease_expires_s) == (None, None)
    assert [(t.state, t.attempts) for t in get_trials(db, job_id)] == [(TrialState.QUEUED, 0)]
    assert event_kinds(client, job_id)[2:] == ["arm_started", "pause_requested", "paused"]


def test_a_job_whose_worker_is_gone_is_paused_at_once_and_that_worker_writes_nothing_more(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    expire(db, job_id)
    assert ask(client, "pause", job_id)["state"] == "paused"
    with pytest.raises(LeaseLostError):
        log.verify()


@sqlite_only
def test_a_job_is_paused_by_the_next_worker_if_the_first_died_before_it_gave_it_back(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job_id = submit()["id"]
    claim_job(db)
    ask(client, "pause", job_id)
    expire(db, job_id)
    second = claim_job(db)
    assert second.requests().pause
    second.release()
    assert get_job(db, job_id).state == JobState.PAUSED


@sqlite_only
def test_a_pause_that_has_not_happened_yet_can_be_withdrawn(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    ask(client, "pause", job_id)
    assert not ask(client, "resume", job_id)["pause_requested"]
    log.release()  # the worker had already seen it: the job goes to the next one
    assert get_job(db, job_id).state == JobState.QUEUED


def test_a_stop_is_told_to_the_worker_once(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    assert [ask(client, "stop", job_id)["stop_requested"] for _ in range(2)] == [True, True]
    assert log.requests() == (False, False, True)
    assert event_kinds(client, job_id).count("stop_requested") == 1


@sqlite_only
def test_a_stop_resumes_a_paused_job_for_its_verdict(client: TestClient, submit: Submit) -> None:
    job_id = submit()["id"]
    ask(client, "pause", job_id)
    job = ask(client, "stop", job_id)
    assert (job["state"], job["stop_requested"]) == ("queued", True)
    assert event_kinds(client, job_id) == ["submitted", "paused", "stop_requested", "resumed"]


@sqlite_only
@pytest.mark.parametrize("verb", ["stop", "pause", "resume"])
def test_a_job_that_is_being_cancelled_is_left_to_that(
    client: TestClient, submit: Submit, db: Database, verb: str
) -> None:
    job_id = submit()["id"]
    claim_job(db)
    client.post(f"/v1/jobs/{job_id}/cancel")
    problem = assert_problem(client.post(f"/v1/jobs/{job_id}/{verb}"), 409, "conflict")
    assert "is being cancelled" in problem["detail"]


@sqlite_only
@pytest.mark.parametrize("verb", ["stop", "pause", "resume"])
def test_there_must_be_such_a_job(client: TestClient, verb: str) -> None:
    assert_problem(client.post(f"/v1/jobs/job-0/{verb}"), 404, "not_found")


@sqlite_only
def test_a_paused_job_can_be_cancelled_and_retried(client: TestClient, submit: Submit) -> None:
    job_id = submit()["id"]
    ask(client, "pause", job_id)
    assert ask(client, "cancel", job_id)["state"] == "cancelled"
    assert ask(client, "retry", job_id)["state"] == "queued"


@sqlite_only
@pytest.mark.parametrize(("more", "goes_on"), [({"trials": 4}, True), ({"seeds": 2}, False)])
def test_more_trials_end_a_stop_and_more_seeds_do_not(
    client: TestClient, submit: Submit, db: Database, more: dict[str, int], goes_on: bool
) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    ask(client, "stop", job_id)
    log.finish_arm(search(log)[0].arm, 1.0, "stopped", 1)
    succeed(log)
    assert client.post(f"/v1/jobs/{job_id}/extend", json=more).status_code == 202
    job = get_job(db, job_id)
    assert (job.stop_requested, job.counted_trials) == ((False, None) if goes_on else (True, 1))


@sqlite_only
def test_a_job_tells_its_priority_and_its_place_in_the_queue(client: TestClient, submit: Submit) -> None:
    first, urgent = submit(), submit(priority=3)
    assert (first["queue_position"], urgent["queue_position"], urgent["priority"]) == (1, 1, 3)
    listed = client.get("/v1/jobs").json()["items"]
    assert [(job["id"], job["queue_position"]) for job in listed] == [(urgent["id"], 1), (first["id"], 2)]
    assert client.get(f"/v1/jobs/{first['id']}").json()["queue_position"] == 2


@sqlite_only
@pytest.mark.parametrize("priority", [6, -6, 0.5, "high", None])
def test_a_priority_out_of_its_range_is_refused(client: TestClient, spec: Any, priority: object) -> None:
    problem = assert_problem(client.post("/v1/jobs", json=spec(priority=priority)), 422, "invalid_spec")
    assert [error["field"] for error in problem["errors"]] == ["priority"]


@sqlite_only
def test_the_page_of_a_job_has_a_button_for_what_it_accepts(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]

    def buttons() -> set[str]:
        page = client.get(f"/jobs/{job_id}").text
        return {verb for verb in ("stop", "pause", "resume", "cancel", "retry") if f'/{job_id}/{verb}"' in page}

    assert buttons() == {"stop", "pause", "cancel"}
    assert "Number 1 in the queue." in client.get(f"/jobs/{job_id}").text
    assert "queued, number 1" in client.get("/").text
    ask(client, "pause", job_id)
    assert buttons() == {"stop", "resume", "cancel"}
    assert "paused" in client.get("/").text
    ask(client, "stop", job_id)
    assert buttons() == {"pause", "cancel"}
    jobs.pause(db, job_id)
    claim_of = ask(client, "resume", job_id)
    assert claim_of["stop_requested"]
    log = claim_job(db)
    search(log)
    log.verify()
    assert buttons() == {"pause", "cancel"}
