# A failed or cancelled job goes on where it stood; and in which state a job accepts which request.
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.db.models import Trial
from service.db.session import Database
from service.ledger import jobs
from service.ledger.runs import RunLog
from service.states import VERBS, ArmState, JobState, TrialState
from service.training.run import CurvePoint, Ended
from tests.service.api.conftest import Submit, assert_problem, claim_job, count_rows, search, sqlite_only, succeed
from tests.service.conftest import get_job, get_trials

DOCUMENT = Path(__file__).parents[3] / "docs/jobs.md"

QUEUED, COMPLETE, FAILED, PRUNED = TrialState.QUEUED, TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED


def bring_to(db: Database, state: JobState) -> None:
    """Bring a queued job to a state."""
    if state == JobState.QUEUED:
        return
    log = claim_job(db)
    if state == JobState.PAUSED:
        jobs.pause(db, log.job_id)
        log.release()
    match state:
        case JobState.VERIFYING:
            search(log)
            log.verify()
        case JobState.SUCCEEDED:
            succeed(log)
        case JobState.FAILED | JobState.CANCELLED:
            log.end(state, None)


def ask(client: TestClient, verb: str, job_id: str) -> Any:
    if verb == "delete":
        return client.delete(f"/v1/jobs/{job_id}")
    body = {"seeds": 2} if verb == "extend" else None
    return client.post(f"/v1/jobs/{job_id}/{verb}", json=body)


def retry(client: TestClient, job_id: str, key: str | None = None) -> Any:
    return client.post(f"/v1/jobs/{job_id}/retry", headers={} if key is None else {"Idempotency-Key": key})


def event_kinds(client: TestClient, job_id: str) -> list[str]:
    return [event["kind"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]


@sqlite_only
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", JobState)
def test_every_request_is_accepted_in_the_states_of_the_table_only(
    client: TestClient, submit: Submit, db: Database, state: JobState, verb: str
) -> None:
    job_id = submit()["id"]
    bring_to(db, state)
    rule, before = VERBS[verb], (client.get(f"/v1/jobs/{job_id}").json(), count_rows(db))
    answer = ask(client, verb, job_id)
    after = (client.get(f"/v1/jobs/{job_id}").json(), count_rows(db))
    if state in rule.allowed:
        assert answer.status_code in (202, 204), answer.text
        assert after != before
        return
    assert after == before
    if state in rule.already:
        assert (answer.status_code, answer.json()) == (202, before[0])
    else:
        assert assert_problem(answer, 409, "conflict")["detail"] == f"job {job_id} is {state}: {rule.refusal}"


def test_the_document_has_the_table_of_the_code() -> None:
    table = DOCUMENT.read_text().partition("| state | ")[2].partition("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table]
    told = {state: dict(zip(head, cells, strict=True)) for state, *cells in rows}
    assert told == {
        state: {
            verb: "yes" if state in rule.allowed else "nothing to do" if state in rule.already else "no"
            for verb, rule in VERBS.items()
        }
        for state in JobState
    }


def cut_short(log: RunLog, end: JobState) -> list[Trial]:
    """Write a job that ends in its second arm: with a complete arm of a failed trial, and open trials."""
    log.start_arm("warpadam")
    trials = [log.add_trial("warpadam", {"lr": 0.1}, running=True) for _ in range(2)]
    log.finish_trial(trials[0].id, Ended(COMPLETE, 0.5, None, 0.1), 1.0)
    log.finish_trial(trials[1].id, Ended(FAILED, cause="RuntimeError: broken"), 1.0)
    log.finish_arm("warpadam", 1.0, "trials_per_arm")
    log.start_arm("adamw")
    trials += [log.add_trial("adamw", {"lr": 0.1}, running=True) for _ in range(4)]
    log.finish_trial(trials[2].id, Ended(COMPLETE, 0.5, None, 0.1), 1.0)
    log.finish_trial(trials[3].id, Ended(PRUNED, 0.9, None, 0.1, "pruner asha"), 1.0)
    log.lose(trials[4], "killed", 0, 1)
    log.finish_trial(trials[4].id, Ended(FAILED, 0.9, cause="killed"), 1.0)
    log.add_points([(trials[5].id, CurvePoint(5, 1.0, 1.0, 0.1))])
    log.end(end, "no slot process could start" if end == JobState.FAILED else None)
    return trials


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
def test_a_retried_job_keeps_what_has_ended_and_runs_the_rest_again(
    client: TestClient, submit: Submit, db: Database, end: JobState
) -> None:
    job_id = submit()["id"]
    cut_short(claim_job(db), end)
    before = get_trials(db, job_id)
    answer = retry(client, job_id)
    assert answer.status_code == 202
    job = answer.json()
    assert (job["state"], job["cause"], job["finished_at"], job["cancel_requested"]) == ("queued", None, None, False)
    assert {arm["name"]: arm["state"] for arm in job["arms"]} == {
        "warpadam": ArmState.COMPLETE,
        "adamw": ArmState.QUEUED,
        "adamw_default": ArmState.QUEUED,
    }
    after = get_trials(db, job_id)
    assert [trial.state for trial in after] == [COMPLETE, FAILED, COMPLETE, PRUNED, QUEUED, QUEUED]
    for kept in (0, 1, 2, 3):
        assert vars(after[kept]) | {"_sa_instance_state": 0} == vars(before[kept]) | {"_sa_instance_state": 0}
    for again in (4, 5):
        row = after[again]
        assert (row.cause, row.value, row.finished_at, row.losses, row.attempts) == (None, None, None, 0, 1)
    assert event_kinds(client, job_id)[-2:] == [end, "retried"]
    assert claim_job(db).job_id == job_id


@sqlite_only
def test_an_arm_that_completed_no_trial_is_searched_again(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    log.start_arm("warpadam")
    trial = log.add_trial("warpadam", {"lr": 0.1}, running=True)
    log.finish_trial(trial.id, Ended(FAILED, cause="RuntimeError: broken"), 1.0)
    log.finish_arm("warpadam", 1.0, "trials_per_arm")
    log.end(JobState.FAILED, "no trial of warpadam completed")
    assert {arm["state"] for arm in retry(client, job_id).json()["arms"]} == {"queued"}
    assert [row.state for row in get_trials(db, job_id)] == [QUEUED]


@sqlite_only
def test_confirmation_runs_that_ended_well_are_kept(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    finalists = search(log)
    log.verify()
    done, failed, running, _ = log.plan_confirm_runs("confirm", finalists[:2], [1, 2])
    for run, state in ((done, COMPLETE), (failed, FAILED)):
        log.start_confirm_run(run.id)
        log.finish_confirm_run(run.id, Ended(state, 0.5, 0.5))
    log.start_confirm_run(running.id)
    log.end(JobState.FAILED, "why")
    assert [run.state for run in log.confirm_runs("confirm")] == [COMPLETE, FAILED, PRUNED, PRUNED]
    retry(client, job_id)
    runs = log.confirm_runs("confirm")
    assert [(run.state, run.cause) for run in runs] == [(COMPLETE, None)] + [(QUEUED, None)] * 3


def test_a_retry_that_is_sent_again_changes_nothing(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    claim_job(db).end(JobState.FAILED, "why")
    first, second = retry(client, job_id, "a"), retry(client, job_id, "a")
    assert (first.status_code, second.status_code, first.json()) == (202, 202, second.json())
    assert [r.headers["idempotent-replayed"] for r in (first, second)] == ["false", "true"]
    claim_job(db).end(JobState.FAILED, "why")
    assert retry(client, job_id, "a").json()["state"] == "queued"  # the answer of the first, which has had its effect
    assert get_job(db, job_id).state == JobState.FAILED
    assert event_kinds(client, job_id).count("retried") == 1
    assert retry(client, job_id, "b").json()["state"] == "queued"
    assert get_job(db, job_id).state == JobState.QUEUED


@sqlite_only
def test_a_job_that_is_being_cancelled_is_retried_only_when_that_has_happened(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    client.post(f"/v1/jobs/{job_id}/cancel")
    problem = assert_problem(retry(client, job_id), 409, "conflict")
    assert "is being cancelled" in problem["detail"]
    assert log.requests().cancel
    log.end(JobState.CANCELLED, None)
    assert retry(client, job_id).json()["state"] == "queued"


@sqlite_only
def test_a_retry_needs_the_dataset_of_the_job(client: TestClient, submit: Submit, db: Database) -> None:
    body = "x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(60))
    dataset = client.post("/v1/datasets", params={"filename": "a.csv"}, content=body).json()
    job_id = submit(dataset={"id": dataset["id"], "target": "y"})["id"]
    claim_job(db).end(JobState.FAILED, "why")
    assert client.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    problem = assert_problem(retry(client, job_id), 409, "conflict")
    assert dataset["id"] in problem["detail"]
    assert get_job(db, job_id).state == JobState.FAILED
