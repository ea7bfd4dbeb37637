# A job ends at its user's wish: at once when no worker is on it, through its worker otherwise; and nothing of a deleted
# job stays behind.
from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service.artifacts import ArtifactStore, write_artifact
from service.db.models import Job
from service.db.session import Database
from service.db.studies import study_name
from service.errors import ConflictError, LeaseLostError
from service.ledger import jobs
from service.settings import Settings
from service.states import JobState
from tests.conftest import SpecMaker
from tests.service.api.conftest import Submit, assert_problem, claim_job, count_rows, search, sqlite_only, succeed


def rows_but_totals(db: Database) -> dict[str, int]:
    """Count the rows of every table but that of the totals, which outlive the jobs that they count."""
    return {name: count for name, count in count_rows(db).items() if name != "totals"}


def bring_to(db: Database, state: str) -> None:
    log = claim_job(db)
    match state:
        case "verifying":
            search(log)
            log.verify()
        case "succeeded":
            succeed(log)
        case "failed" | "cancelled":
            log.end(JobState(state), None)


def expire(db: Database, job_id: str) -> None:
    with db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_s=time.time() - 100))


def add_belongings(job_id: str, storage: optuna.storages.RDBStorage, settings: Settings) -> None:
    """Make the studies and files that a worker makes."""
    for arm in ("warpadam", "adamw"):
        study = optuna.create_study(storage=storage, study_name=study_name(job_id, arm))
        trial = study.ask()
        trial.report(trial.suggest_float("lr", 0, 1), 1)
        study.tell(trial, 0.5)
    ArtifactStore(settings.artifacts_url).put(job_id, "data.npz", b"rows")


def event_kinds(client: TestClient, job_id: str) -> list[str]:
    return [event["kind"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]


def test_queued_job_is_cancelled_at_once(client: TestClient, submit: Submit) -> None:
    job_id = submit()["id"]
    answer = client.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 202
    job = answer.json()
    assert (job["state"], job["cancel_requested"], job["cause"]) == ("cancelled", True, None)
    assert job["finished_at"] is not None
    assert job == client.get(f"/v1/jobs/{job_id}").json()
    assert event_kinds(client, job_id) == ["submitted", "cancelled"]


@pytest.mark.parametrize("state", ["running", "verifying"])
def test_worker_is_asked_once_to_cancel_its_job(client: TestClient, submit: Submit, db: Database, state: str) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    if state == "verifying":
        log.verify()
    for _ in range(2):
        answer = client.post(f"/v1/jobs/{job_id}/cancel")
        assert answer.status_code == 202
        assert (answer.json()["state"], answer.json()["cancel_requested"]) == (state, True)
    assert log.requests().cancel
    assert event_kinds(client, job_id).count("cancel_requested") == 1
    log.end(JobState.CANCELLED, None)
    assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"


def test_job_of_a_silent_worker_is_cancelled_at_once(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    log.start_arm("warpadam")
    running = log.add_trial("warpadam", {})
    log.start_trial(running.id)
    log.add_trial("warpadam", {})
    expire(db, job_id)
    job = client.post(f"/v1/jobs/{job_id}/cancel").json()
    assert job["state"] == "cancelled"
    assert job["finished_at"] is not None
    trials = client.get(f"/v1/jobs/{job_id}/trials").json()["items"]
    assert [(trial["state"], trial["cause"]) for trial in trials] == [
        ("pruned", "the job was cancelled before the run was over")
    ] * 2
    assert all(trial["finished_at"] for trial in trials)
    with pytest.raises(LeaseLostError):  # the worker was only slow
        log.add_trial("warpadam", {})


@sqlite_only
def test_job_that_was_given_back_takes_its_open_trials_with_it(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    log.add_trial("warpadam", {})
    log.release()
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["arms"][0]["trials"] == {"pruned": 1}


@sqlite_only
def test_checkpoints_of_a_job_that_no_worker_is_on_go_with_its_cancellation(
    client: TestClient, submit: Submit, db: Database, settings: Settings
) -> None:
    artifacts = ArtifactStore(settings.artifacts_url)
    kept = []
    for given_back in (True, False):
        job_id = submit()["id"]
        log = claim_job(db)
        url = f"{artifacts.checkpoint_url(job_id, 'trial-0')}/step-1.ckpt"
        write_artifact(url, b"state")
        if given_back:
            log.release()
        assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
        kept.append(Path(url.removeprefix("file://")).exists())
    assert kept == [False, True]  # the second is its worker's to remove


@sqlite_only
def test_to_cancel_a_job_again_changes_nothing(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    bring_to(db, "cancelled")
    before = client.get(f"/v1/jobs/{job_id}").json()
    events = client.get(f"/v1/jobs/{job_id}/events").json()
    again = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (again.status_code, again.json()) == (202, before)
    assert client.get(f"/v1/jobs/{job_id}/events").json() == events


@sqlite_only
@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_ended_job_cannot_be_cancelled(client: TestClient, submit: Submit, db: Database, state: str) -> None:
    job_id = submit()["id"]
    bring_to(db, state)
    before = client.get(f"/v1/jobs/{job_id}").json()
    problem = assert_problem(client.post(f"/v1/jobs/{job_id}/cancel"), 409, "conflict")
    assert state in problem["detail"]
    assert client.get(f"/v1/jobs/{job_id}").json() == before


@sqlite_only
@pytest.mark.parametrize("state", ["running", "verifying"])
def test_job_with_a_worker_cannot_be_deleted(client: TestClient, submit: Submit, db: Database, state: str) -> None:
    job_id = submit()["id"]
    bring_to(db, state)
    before = rows_but_totals(db)
    problem = assert_problem(client.delete(f"/v1/jobs/{job_id}"), 409, "conflict")
    assert state in problem["detail"]
    assert "cancel it first" in problem["detail"]
    assert rows_but_totals(db) == before


@pytest.mark.parametrize(
    ("database_url", "state"),
    [
        ("sqlite", "queued"),
        ("sqlite", "succeeded"),
        ("sqlite", "failed"),
        ("sqlite", "cancelled"),
        pytest.param("postgresql", "succeeded", marks=pytest.mark.postgres),
    ],
    indirect=["database_url"],
)
def test_deleted_job_leaves_nothing_behind(
    client: TestClient,
    submit: Submit,
    spec: SpecMaker,
    db: Database,
    storage: optuna.storages.RDBStorage,
    settings: Settings,
    state: str,
) -> None:
    other = submit(name="stays")["id"]
    succeed(claim_job(db))
    add_belongings(other, storage, settings)
    before = rows_but_totals(db)
    job = client.post("/v1/jobs", json=spec(), headers={"Idempotency-Key": "a"}).json()
    if state != "queued":
        bring_to(db, state)
    add_belongings(job["id"], storage, settings)
    response = client.delete(f"/v1/jobs/{job['id']}")
    assert (response.status_code, response.content) == (204, b"")
    assert rows_but_totals(db) == before
    assert {study.study_name for study in storage.get_all_studies()} == {f"{other}/warpadam", f"{other}/adamw"}
    assert [path.name for path in Path(settings.artifacts_url, "jobs").iterdir()] == [other]
    assert_problem(client.delete(f"/v1/jobs/{job['id']}"), 404, "not_found")
    assert client.get(f"/v1/jobs/{other}").status_code == 200


def test_job_of_a_silent_worker_can_be_cancelled_and_deleted(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    expire(db, job_id)
    assert_problem(client.delete(f"/v1/jobs/{job_id}"), 409, "conflict")
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    with pytest.raises(LeaseLostError):
        log.verify()


@pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("POST", "/cancel")])
def test_request_waits_for_a_worker_that_is_just_claiming(
    client: TestClient, submit: Submit, db: Database, method: str, path: str
) -> None:
    job_id = submit()["id"]
    claimed = {"state": JobState.RUNNING, "lease_token": 1, "lease_expires_s": time.time() + 60}
    with ThreadPoolExecutor(1) as pool:
        with db.write() as session:
            session.execute(update(Job).where(Job.id == job_id).values(claimed))
            answer = pool.submit(client.request, method, f"/v1/jobs/{job_id}{path}")
            time.sleep(0.2)
            assert not answer.done()
        assert answer.result().status_code == (409 if method == "DELETE" else 202)
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["cancel_requested"]) == ("running", method == "POST")


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
def test_a_job_that_is_being_deleted_is_not_queued_again(
    client: TestClient,
    submit: Submit,
    db: Database,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    job_id = submit()["id"]
    bring_to(db, state)
    delete, answers = ArtifactStore.delete_job, []

    def delete_slowly(store: ArtifactStore, job_id: str) -> None:
        delete(store, job_id)
        for verb, body in (("extend", {"seeds": 1}), ("retry", None)):
            answers.append(client.post(f"/v1/jobs/{job_id}/{verb}", json=body))

    monkeypatch.setattr(ArtifactStore, "delete_job", delete_slowly)
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    for answer in answers:
        assert_problem(answer, 409, "conflict")
    possible = answers[state == "cancelled"].json()["detail"]
    assert possible == f"job {job_id} is being deleted. If that was cut short, delete it again"
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404


def test_a_job_that_an_older_version_queues_again_while_it_is_deleted_is_reported(
    db: Database, client: TestClient, submit: Submit
) -> None:
    job_id = submit()["id"]
    jobs.close_for_deletion(db, job_id)
    with db.write() as session:  # it does not know of the mark
        jobs.require_job(session, job_id).state = JobState.QUEUED
    with pytest.raises(ConflictError, match="was queued again while it was deleted"):
        jobs.delete_row(db, job_id)
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200


# Optuna's rows are gone when the second request commits; that is the point
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
def test_many_deletions_at_once_are_one(
    client: TestClient,
    submit: Submit,
    db: Database,
    storage: optuna.storages.RDBStorage,
    settings: Settings,
) -> None:
    job_id = submit()["id"]
    bring_to(db, "succeeded")
    add_belongings(job_id, storage, settings)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.delete(f"/v1/jobs/{job_id}"), range(4)))
    assert {answer.status_code for answer in answers} <= {204, 404}
    assert 204 in {answer.status_code for answer in answers}
    assert sum(count_rows(db)[name] for name in ("jobs", "job_trials", "job_events", "studies", "trials")) == 0
    assert not Path(settings.artifacts_url, "jobs", job_id).exists()


@sqlite_only
def test_deletion_that_was_cut_short_is_finished_by_the_next(
    client: TestClient, submit: Submit, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()["id"]
    with monkeypatch.context() as broken:

        def fail(store: ArtifactStore, job_id: str) -> None:
            raise OSError("the store is away")

        broken.setattr(ArtifactStore, "delete_job", fail)
        assert_problem(client.delete(f"/v1/jobs/{job_id}"), 500, "internal_error")
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert job["state"] == "cancelled"
    assert job["finished_at"] is not None
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
