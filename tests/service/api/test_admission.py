# What may be submitted: limits of the operator, what the machine can do, time, disk, and the length of the queue.
from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.db.models import DatasetRow, Job
from service.db.session import Database
from service.ledger import jobs, keys
from service.planning import limits
from service.processes import machine_cpus
from service.settings import Settings
from service.states import JobState
from service.submission import admission
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, claim_job, count_rows, sqlite_only, succeed
from tests.service.data import files

Serve = Callable[..., TestClient]

UNKNOWN: dict[str, Any] = {"worker_cpus": None, "worker_memory_bytes": None}


@pytest.fixture
def serve(settings: Settings, db: Database) -> Iterator[Serve]:
    """Starts an API with some limits, whose workers have a machine with 8 CPUs and 16 GiB unless it says otherwise."""
    with ExitStack() as opened:

        def start(**changes: Any) -> TestClient:
            machine = {"worker_cpus": 8, "worker_memory_bytes": 16 << 30}
            limited = Settings.model_validate(settings.model_dump() | machine | changes)
            return opened.enter_context(TestClient(create_app(limited), raise_server_exceptions=False))

        yield start


def only_error(client: TestClient, db: Database, body: dict[str, Any]) -> dict[str, Any]:
    """Post a spec, and ask what it would cost; check that both are refused alike; return the one error."""
    before = count_rows(db)
    problems = [
        assert_problem(client.post("/v1/jobs", params=query, json=body), 422, "invalid_spec")
        for query in ({}, {"dry_run": "true"})
    ]
    assert problems[0] | {"request_id": ""} == problems[1] | {"request_id": ""}
    assert count_rows(db) == before
    (error,) = problems[0]["errors"]
    assert error["code"] == "over_limit"
    return dict(error)


def said(field: str, value: object, message: str, setting: str) -> dict[str, Any]:
    hint = f"The setting WARPTUNE_{setting} decides it."
    return {"field": field, "value": value, "message": message, "hint": hint, "code": "over_limit"}


LARGE: dict[str, Any] = {"model": {"name": "mlp", "hidden": [4096] * 5}}

OVER: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "slots": (
        {"max_slots": 4},
        {"resources": {"slots": 5}},
        said("resources.slots", 5, "must be at most 4", "MAX_SLOTS"),
    ),
    "steps": ({"max_steps": 9}, {}, said("budget.steps", 10, "must be at most 9", "MAX_STEPS")),
    "trials": ({"max_trials": 1}, {}, said("budget.trials_per_arm", 2, "must be at most 1", "MAX_TRIALS")),
    "parameters": (
        {"max_parameters": 138},
        {},
        said("model", "mlp", "must have at most 138 parameters, and has 139", "MAX_PARAMETERS"),
    ),
    "memory of a slot": (
        {"slot_memory_bytes": 1 << 30},
        LARGE,
        said(
            "model",
            "mlp",
            "is too large: its 67,194,883 parameters take at least 1.1 GiB with their gradients and the state of Adam, "
            "and a slot may take 1.0 GiB",
            "SLOT_MEMORY_BYTES",
        ),
    ),
    "memory of a job": (
        {"max_job_memory_bytes": 1 << 30},
        {"resources": {"slots": 8}},
        said(
            "resources.slots",
            8,
            "must be at most 6: each run takes at least 0.1 GiB, and a job may take 1.0 GiB",
            "MAX_JOB_MEMORY_BYTES",
        ),
    ),
    "64 slots x 256 CPUs": (
        {},
        {"resources": {"slots": 64, "cpus_per_trial": 256}},
        said(
            "resources.cpus_per_trial",
            256,
            "must be at most 8, the CPUs of the worker's machine",
            "WORKER_CPUS",
        ),
    ),
    "slots of a large model": (
        {},
        {**LARGE, "resources": {"slots": 30}},
        said(
            "resources.slots",
            30,
            "must be at most 13: each run takes at least 1.1 GiB, and the worker's machine has 16.0 GiB",
            "WORKER_MEMORY_BYTES",
        ),
    ),
}


@sqlite_only
@pytest.mark.parametrize(("settings_of", "parts", "expected"), OVER.values(), ids=OVER)
def test_what_is_over_a_limit_is_refused_by_field_value_limit_and_setting(
    serve: Serve,
    db: Database,
    spec: SpecMaker,
    settings_of: dict[str, Any],
    parts: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    assert only_error(serve(**settings_of), db, spec(**parts)) == expected


def huge(client: TestClient) -> dict[str, Any]:
    """The data and the model of a job with 4.8 billion parameters."""
    text = client.post("/v1/datasets", params={"filename": "a.txt"}, content=b"to be or not to be\n" * 100)
    model = {"name": "transformer", "layers": 24, "width": 4096, "heads": 64}
    return {"dataset": {"id": text.json()["id"]}, "model": model}


@sqlite_only
def test_a_model_that_does_not_fit_into_the_memory_is_refused_without_being_built(
    serve: Serve, db: Database, spec: SpecMaker
) -> None:
    client = serve()
    expected = said(
        "model",
        "transformer",
        "is too large: its 4,835,483,904 parameters take at least 72.2 GiB with their gradients and the state of Adam, "
        "and the worker's machine has 16.0 GiB",
        "WORKER_MEMORY_BYTES",
    )
    assert only_error(client, db, spec(**huge(client))) == expected


@sqlite_only
def test_everything_that_is_over_a_limit_is_named_at_once(serve: Serve, spec: SpecMaker) -> None:
    client = serve(max_steps=5, max_trials=1)
    body = spec(resources={"cpus_per_trial": 9})
    problem = assert_problem(client.post("/v1/jobs", json=body), 422, "invalid_spec")
    fields = [error["field"] for error in problem["errors"]]
    assert fields == ["budget.steps", "budget.trials_per_arm", "resources.cpus_per_trial"]


@sqlite_only
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"resources": {"slots": 16}},
        {"resources": {"slots": 64, "cpus_per_trial": 8}, "budget": {"trials_per_arm": 2, "steps": 10}},
        {"budget": {"trials_per_arm": 100, "steps": 10_000, "max_seconds": 86_400.0}},
        {"budget": {"trials_per_arm": 10_000, "steps": 100_000, "max_seconds": 600.0}},
    ],
    ids=["small", "slots", "as many CPUs as there are", "a day", "a search that ends with its time"],
)
def test_what_a_machine_can_do_is_accepted_without_any_setting(
    serve: Serve, spec: SpecMaker, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "estimate", lambda *_: pytest.fail("nothing was to be timed"))
    assert serve().post("/v1/jobs", json=spec(**parts)).status_code == 202


@sqlite_only
def test_with_sqlite_the_workers_are_on_this_machine(
    serve: Serve, db: Database, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, cpus = serve(**UNKNOWN), machine_cpus()
    error = only_error(client, db, spec(resources={"cpus_per_trial": cpus + 1}))
    assert error["message"] == f"must be at most {cpus}, the CPUs of the worker's machine"
    monkeypatch.setattr(limits, "machine_memory_bytes", lambda: 64 << 30)
    error = only_error(client, db, spec(**huge(client)))
    assert error["message"].endswith("and the worker's machine has 64.0 GiB")


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_with_postgresql_they_may_be_anywhere(serve: Serve, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "machine_memory_bytes", lambda: 64 << 30)
    client = serve(**UNKNOWN)
    assert client.post("/v1/jobs", json=spec(resources={"cpus_per_trial": 256})).status_code == 202
    body = spec(**huge(client), budget={"steps": 1_000_000})
    assert client.post("/v1/jobs", json=body).status_code == 202
    problem = assert_problem(client.post("/v1/jobs", params={"dry_run": "true"}, json=body), 503, "unavailable")
    assert problem["detail"] == (
        "the steps of the arms cannot be timed: a run takes at least 72.2 GiB, and this machine has 64.0 GiB"
    )


@sqlite_only
@pytest.mark.ray
def test_what_a_cluster_may_do_is_not_refused(serve: Serve, db: Database, spec: SpecMaker) -> None:
    client = serve(max_job_seconds=1.0)
    resources = {"cpus_per_trial": 256, "memory_bytes": 1 << 40, "max_concurrent": 1000}
    ray = {"engine": {"name": "ray"}, "resources": resources}
    assert client.post("/v1/jobs", json=spec(**huge(client), **ray)).status_code == 202
    limited = serve(max_slots=10)
    error = limited.post("/v1/jobs", json=spec(**ray)).json()["errors"][0]
    assert (error["field"], error["message"]) == ("resources.max_concurrent", "must be at most 10")
    error = limited.post("/v1/jobs", json=spec(engine={"name": "ray"})).json()["errors"][0]
    assert (error["field"], error["message"]) == ("resources.max_concurrent", "must be given, and be at most 10")


@sqlite_only
def test_a_job_that_would_take_too_long_is_refused_with_its_time(serve: Serve, db: Database, spec: SpecMaker) -> None:
    budget = {"trials_per_arm": 10_000, "steps": 1_000_000, "max_seconds": 604_800.0}
    error = only_error_of_time(serve(), db, spec(budget=budget))
    assert (error["field"], error["value"], error["code"]) == ("budget.steps", 1_000_000, "over_limit")
    assert "days here, and may take 7.0 days" in error["message"]
    assert "WARPTUNE_MAX_JOB_SECONDS" in error["hint"]


def only_error_of_time(client: TestClient, db: Database, body: dict[str, Any]) -> dict[str, Any]:
    """Post a spec, and return its one error. Its time is measured, and so differs between two answers."""
    before = count_rows(db)
    (error,) = assert_problem(client.post("/v1/jobs", json=body), 422, "invalid_spec")["errors"]
    assert count_rows(db) == before
    asked = client.post("/v1/jobs", params={"dry_run": "true"}, json=body)
    assert assert_problem(asked, 422, "invalid_spec")["errors"][0]["field"] == error["field"]
    return dict(error)


@sqlite_only
def test_a_job_that_may_be_short_enough_is_timed_before_it_is_refused(serve: Serve, spec: SpecMaker) -> None:
    client = serve(max_job_seconds=60.0)  # at 50 ms a step, 290 steps would be over the limit of a job of 10 s
    assert client.post("/v1/jobs", json=spec(budget={"trials_per_arm": 2, "steps": 100})).status_code == 202


def test_a_full_queue_takes_no_more_jobs_until_one_has_started(serve: Serve, db: Database, spec: SpecMaker) -> None:
    client = serve(max_queued_jobs=2)
    first, second = (client.post("/v1/jobs", json=spec()).json() for _ in range(2))
    refused = client.post("/v1/jobs", json=spec())
    detail = assert_problem(refused, 429, "queue_full")["detail"]
    assert detail.startswith("2 jobs wait already, as many as may (WARPTUNE_MAX_QUEUED_JOBS is 2)")
    assert int(refused.headers["Retry-After"]) == 30
    jobs.pause(db, second["id"])  # it waits still
    assert client.post("/v1/jobs", json=spec()).status_code == 429
    succeed(claim_job(db))
    assert client.post("/v1/jobs", json=spec()).status_code == 202
    for verb, body in (("extend", {"seeds": 1}), ("retry", None)):
        if verb == "retry":
            with db.write() as session:
                jobs.close(session, jobs.require_job(session, first["id"]), JobState.FAILED, "of the tests")
        answer = client.post(f"/v1/jobs/{first['id']}/{verb}", json=body)
        assert_problem(answer, 429, "queue_full")


def test_a_project_fills_its_own_queue_only(serve: Serve, db: Database, spec: SpecMaker) -> None:
    client = serve(max_queued_jobs_per_project=1)
    senders = {
        owner: {"Authorization": f"Bearer {keys.create(db, owner, keys.Scope.SUBMIT)[0]}"} for owner in ("a", "b")
    }
    assert client.post("/v1/jobs", json=spec(), headers=senders["a"]).status_code == 202
    problem = assert_problem(client.post("/v1/jobs", json=spec(), headers=senders["a"]), 429, "queue_full")
    assert "1 jobs of project a wait already" in problem["detail"]
    assert "WARPTUNE_MAX_QUEUED_JOBS_PER_PROJECT is 1" in problem["detail"]
    assert client.post("/v1/jobs", json=spec(), headers=senders["b"]).status_code == 202


def test_many_at_once_do_not_fill_the_queue_further(serve: Serve, db: Database, spec: SpecMaker) -> None:
    client = serve(max_queued_jobs=3)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs", json=spec()).status_code, range(8)))
    assert sorted(answers) == [202] * 3 + [429] * 5
    assert count_rows(db)["jobs"] == 3


def test_a_project_that_stores_as_much_as_it_may_gets_no_job_and_no_upload(
    serve: Serve, db: Database, spec: SpecMaker
) -> None:
    client = serve(max_project_bytes=100_000)
    uploaded = client.post("/v1/datasets", params={"filename": "a.csv"}, content=files.csv())
    assert uploaded.status_code == 201
    job = client.post("/v1/jobs", json=spec()).json()
    claim_job(db).set_stored_bytes(99_000)
    with db.read() as session:
        kept = session.query(DatasetRow).one().stored_bytes
    assert kept > 1000
    other = files.csv().replace(b"Oslo", b"Bonn")
    before = count_rows(db)
    problem = assert_problem(
        client.post("/v1/datasets", params={"filename": "b.csv"}, content=other), 507, "quota_exceeded"
    )
    assert problem["detail"].startswith(f"project local stores {99_000 + kept} bytes")
    assert "it may store 100000 (WARPTUNE_MAX_PROJECT_BYTES)" in problem["detail"]
    assert count_rows(db) == before
    again = client.post("/v1/datasets", params={"filename": "a.csv"}, content=files.csv())
    assert again.status_code == 200  # it is stored already
    assert_problem(client.post("/v1/jobs", json=spec()), 507, "quota_exceeded")
    jobs.cancel(db, job["id"])
    with db.write() as session:
        jobs.close(session, jobs.require_job(session, job["id"]), JobState.CANCELLED)
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.post("/v1/jobs", json=spec()).status_code == 202


def test_an_upload_that_would_not_fit_is_refused_before_it_is_kept(
    serve: Serve, db: Database, settings: Settings
) -> None:
    client = serve(max_project_bytes=500)
    answer = client.post("/v1/datasets", params={"filename": "a.csv"}, content=files.csv())
    detail = assert_problem(answer, 507, "quota_exceeded")["detail"]
    assert detail.startswith("project local stores 0 bytes, and this takes ")
    assert count_rows(db)["datasets"] == 0


@sqlite_only
def test_an_extension_keeps_to_the_limit_on_trials(serve: Serve, db: Database, spec: SpecMaker) -> None:
    client = serve(max_trials=3)
    job = client.post("/v1/jobs", json=spec()).json()
    succeed(claim_job(db))
    problem = assert_problem(client.post(f"/v1/jobs/{job['id']}/extend", json={"trials": 2}), 422, "invalid_spec")
    assert "must be at most 1: the job has 2 already, and the limit is 3" in problem["detail"]
    with db.read() as session:
        assert session.query(Job).one().state == JobState.SUCCEEDED
