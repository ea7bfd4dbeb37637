# Jobs come in with every default written out, and are listed page by page without gaps or repeats.
from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.db.session import Database
from service.settings import Settings
from service.states import JobState
from service.version import versions
from tests.conftest import SpecMaker
from tests.service.api.conftest import (
    Submit,
    assert_problem,
    claim_job,
    count_rows,
    pages,
    refused,
    search,
    sqlite_only,
    succeed,
)


def test_submitted_job_is_queued_and_says_where_everything_is(client: TestClient, spec: SpecMaker) -> None:
    response = client.post("/v1/jobs", json=spec(name="größer 🚀"))
    job = response.json()
    assert response.status_code == 202
    assert re.fullmatch(r"job-[0-9a-f]{16}", job["id"])
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert "idempotent-replayed" not in response.headers
    assert (job["name"], job["dataset"], job["state"]) == ("größer 🚀", "wine", "queued")
    assert (job["cause"], job["data_sha256"], job["cancel_requested"]) == (None, None, False)
    assert (job["started_at"], job["finished_at"]) == (None, None)
    assert abs(datetime.fromisoformat(job["created_at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert job["confirm"] == {"done": 0, "planned": 0}
    assert client.get(job["links"]["self"]).json() == job
    for name in ("trials", "events", "dashboard"):
        assert client.get(job["links"][name]).status_code == 200
    for name in ("recommendation", "export"):
        assert_problem(client.get(job["links"][name]), 409, "conflict")


@sqlite_only
def test_spec_comes_back_with_every_default_written_out(client: TestClient, spec: SpecMaker) -> None:
    body = {"dataset": {"name": "digits"}, "model": {"name": "autoencoder"}}
    job = client.post("/v1/jobs", json=body).json()
    assert job["spec"]["model"] == {"name": "autoencoder", "hidden": [96, 48], "code": 30, "activation": "tanh"}
    assert job["spec"]["baselines"] == ["adamw"]
    assert job["spec"]["budget"] == {"trials_per_arm": 20, "steps": 400, "batch_size": 128, "max_seconds": 600.0}
    again = client.post("/v1/jobs", json=job["spec"])
    assert again.status_code == 202
    assert again.json()["spec"] == job["spec"]


def test_overrides_come_back_as_they_were_given(submit: Submit) -> None:
    overrides = {
        "structure": ["kronecker", "diagonal"],
        "lr": {"low": 0.001, "high": 1, "log": None},
        "meta_every": 10,
        "p_lr": [0.01, 0.1],
    }
    assert submit(search_space={"overrides": overrides})["spec"]["search_space"]["overrides"] == overrides


def test_arms_tell_how_far_they_are(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()
    assert [arm["name"] for arm in job["arms"]] == ["warpadam", "adamw", "adamw_default"]
    assert all(arm["trials"] == {} and arm["best"] is None and arm["state"] == "queued" for arm in job["arms"])
    log = claim_job(db)
    search(log)
    arms = client.get(f"/v1/jobs/{job['id']}").json()["arms"]
    tuned, untuned = ("complete", {"complete": 2}, 2), ("complete", {"complete": 1}, 1)
    assert [(arm["state"], arm["trials"], arm["trials_cap"]) for arm in arms] == [tuned, tuned, untuned]
    assert [arm["best"]["number"] for arm in arms] == [0, 2, 4]
    assert [arm["best"]["value"] for arm in arms] == [0.5, 0.5, 0.5]
    assert [arm["study"] for arm in arms] == [f"{job['id']}/{arm['name']}" for arm in arms]


@sqlite_only
def test_confirmation_runs_are_counted(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    log = claim_job(db)
    finalists = search(log)
    log.verify()
    first, *_ = log.plan_confirm_runs("confirm", finalists, range(6))
    log.start_confirm_run(first.id)
    assert client.get(f"/v1/jobs/{job_id}").json()["confirm"] == {"done": 0, "planned": 18}


def test_succeeded_job_has_ended(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    succeed(claim_job(db))
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["confirm"], job["data_sha256"]) == ("succeeded", {"done": 18, "planned": 18}, "0" * 64)
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]


def test_list_is_newest_first_and_pages_have_no_gaps_and_no_repeats(client: TestClient, submit: Submit) -> None:
    ids = [submit(name=f"job {index}")["id"] for index in range(7)]
    for limit in (1, 3, 7, 8):
        found = pages(client, "/v1/jobs", limit)
        assert [job["id"] for page in found for job in page] == ids[::-1]
        assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
        assert found[-1]


@sqlite_only
def test_job_that_comes_in_between_two_pages_moves_nothing(client: TestClient, submit: Submit) -> None:
    ids = [submit()["id"] for _ in range(4)]
    first = client.get("/v1/jobs", params={"limit": 2}).json()
    submit()
    rest = client.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next_cursor"] is None


@sqlite_only
def test_list_of_nothing_is_one_empty_page(client: TestClient) -> None:
    assert client.get("/v1/jobs").json() == {"items": [], "next_cursor": None}


def test_filters_narrow_the_list(client: TestClient, submit: Submit, db: Database) -> None:
    first, second = submit(name="a")["id"], submit(name="b", dataset={"name": "digits"})["id"]
    third = submit(name="a", dataset={"name": "digits"})["id"]
    claim_job(db)

    def listed(**query: Any) -> list[str]:
        return [job["id"] for page in pages(client, "/v1/jobs", 1, **query) for job in page]

    assert listed(state="running") == [first]
    assert listed(state="queued") == [third, second]
    assert listed(dataset="digits") == [third, second]
    assert listed(name="a") == [third, first]
    assert listed(name="a", dataset="digits", state="queued") == [third]
    assert listed(name="A") == listed(dataset="iris") == listed(state="failed") == []


@pytest.mark.parametrize(
    ("path", "query", "field", "expected"),
    [
        ("", "limit=0", "limit", "greater than or equal to 1"),
        ("", "limit=201", "limit", "less than or equal to 200"),
        ("", "limit=abc", "limit", "a valid integer"),
        ("", "limit=", "limit", "a valid integer"),
        ("", "limit=1.5", "limit", "a valid integer"),
        ("", "cursor=-1", "cursor", "greater than or equal to 0"),
        ("", "cursor=x", "cursor", "a valid integer"),
        ("", f"cursor={10**30}", "cursor", "less than or equal to"),
        ("", "state=done", "state", "'queued', 'running'"),
        ("", "state=", "state", "'queued', 'running'"),
        ("", "name=%00", "name", "without the character NUL"),
        ("", f"dataset={'x' * 101}", "dataset", "at most 100 characters"),
        ("", "stat=queued", "stat", "Did you mean 'state'?"),
        ("", "offset=1", "offset", "The names are limit, cursor, state, dataset, name, tag"),
        ("", "tag=two+words", "tag.0", "must begin with a letter or a digit"),
        ("/job-0/events", "limit=0", "limit", "greater than or equal to 1"),
        ("/job-0/events", "state=queued", "state", "The names are limit, cursor"),
        ("/%00", "", "job_id", "without the character NUL"),
        (f"/{'x' * 101}", "", "job_id", "at most 100 characters"),
    ],
)
def test_bad_query_names_the_parameter(
    shared_client: TestClient, path: str, query: str, field: str, expected: str
) -> None:
    problem = assert_problem(shared_client.get(f"/v1/jobs{path}?{query}"), 422, "invalid_spec")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert expected in problem["detail"]


@sqlite_only
def test_largest_cursor_and_limit_are_fine(client: TestClient, submit: Submit) -> None:
    job_id = submit()["id"]
    answer = client.get("/v1/jobs", params={"limit": 200, "cursor": 2**31 - 1}).json()
    assert [job["id"] for job in answer["items"]] == [job_id]
    assert client.get("/v1/jobs", params={"cursor": 0}).json()["items"] == []


@sqlite_only
@pytest.mark.parametrize("method", ["get", "delete"])
def test_unknown_job_is_not_found(client: TestClient, method: str) -> None:
    problem = assert_problem(client.request(method, "/v1/jobs/job-0000000000000000"), 404, "not_found")
    assert "job-0000000000000000" in problem["detail"]


@pytest.mark.parametrize("path", ["/cancel", "/events", "/trials", "/trials/0", "/recommendation", "/export"])
def test_nothing_is_below_an_unknown_job(shared_client: TestClient, path: str) -> None:
    method = "post" if path == "/cancel" else "get"
    assert_problem(shared_client.request(method, f"/v1/jobs/job-0000000000000000{path}"), 404, "not_found")


def test_events_tell_the_story_in_order_and_in_pages(client: TestClient, submit: Submit, db: Database) -> None:
    submit()
    job_id = submit()["id"]
    claim_job(db)
    succeed(claim_job(db))
    found = pages(client, f"/v1/jobs/{job_id}/events", 2)
    events = [event for page in found for event in page]
    arms = [["arm_started", *["trial_finished"] * trials, "arm_finished"] for trials in (2, 2, 1)]
    search, verification = [kind for arm in arms for kind in arm], ["runs_planned", *["run_finished"] * 18]
    kinds = ["submitted", "claimed", *search, "verifying", *verification, "succeeded"]
    assert [event["kind"] for event in events] == kinds
    assert [event["id"] for event in events] == sorted({event["id"] for event in events})
    assert all(datetime.fromisoformat(event["at"]).utcoffset() == timedelta(0) for event in events)
    assert events[1]["data"] == {"worker": "a worker of the tests", "token": 1, "versions": versions()}


@sqlite_only
def test_failed_job_tells_its_cause(client: TestClient, submit: Submit, db: Database) -> None:
    job_id = submit()["id"]
    claim_job(db).end(JobState.FAILED, "arm adamw completed no trial")
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["cause"]) == ("failed", "arm adamw completed no trial")
    assert client.get("/v1/jobs", params={"state": "failed"}).json()["items"][0]["cause"] == job["cause"]


@sqlite_only
def test_names_need_not_be_unique(client: TestClient, submit: Submit, db: Database) -> None:
    assert submit(name="same")["id"] != submit(name="same")["id"]
    assert count_rows(db)["jobs"] == 2


@sqlite_only
def test_an_engine_that_is_not_installed_is_refused_with_the_command_that_installs_it(
    client: TestClient, db: Database, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.post("/v1/jobs", json=spec(engine={"name": "ray"})).json()["id"]
    monkeypatch.setattr("service.planning.checks.find_spec", lambda name: None)
    [error] = refused(client, db, spec(engine={"name": "ray"}))
    assert (error["field"], error["code"]) == ("engine.name", "not_allowed")
    assert error["message"] == "needs the package ray, which is not installed here"
    assert error["hint"] == "Install it for the API and every worker: pip install '.[ray]' in your clone."
    assert client.get(f"/v1/jobs/{job}").json()["arms"], "a job that is stored is still shown"


@sqlite_only
def test_a_job_whose_user_code_has_changed_is_not_queued_again(
    settings: Settings, db: Database, spec: SpecMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "own_net.py"
    module.write_text(
        "from torch import nn\n\n\ndef make(shape, outputs, task):\n    return nn.Linear(shape[-1], outputs)\n"
    )
    monkeypatch.setenv("WARPTUNE_CODE", str(tmp_path))
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", "own_net")
    with TestClient(create_app(settings.model_copy(update={"allowed_modules": "own_net"}))) as client:
        job = client.post("/v1/jobs", json=spec(model={"entrypoint": "own_net:make"})).json()["id"]
        client.post(f"/v1/jobs/{job}/cancel")
        code = module.read_text()
        module.write_text(f"{code}# changed\n")
        problem = assert_problem(client.post(f"/v1/jobs/{job}/retry"), 409, "conflict")
        assert (
            f"the source of own_net has changed since job {job} was submitted: put the old source" in problem["detail"]
        )
        assert client.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"
        module.write_text(code)
        keyed = {"Idempotency-Key": "again"}
        assert client.post(f"/v1/jobs/{job}/retry", headers=keyed).json()["state"] == "queued"
        client.post(f"/v1/jobs/{job}/cancel")
        module.write_text(f"{code}# changed\n")
        repeated = client.post(f"/v1/jobs/{job}/retry", headers=keyed)
        assert (repeated.status_code, repeated.headers["Idempotent-Replayed"]) == (202, "true")


@sqlite_only
def test_only_a_private_service_keeps_jobs_with_user_code_for_its_own_worker(
    settings: Settings, db: Database, spec: SpecMaker
) -> None:
    own = spec(model={"entrypoint": "examples.gated_mlp:make_model"})
    with TestClient(create_app(settings.model_copy(update={"allowed_modules": "examples"}))) as client:
        found = [client.post("/v1/jobs", json=own).json()["needs_module"]]
        client.app.state.private_key = b"private"  # type: ignore[attr-defined]
        found += [client.post("/v1/jobs", json=sent).json()["needs_module"] for sent in (own, spec())]
    assert found == [None, "examples.gated_mlp", None]
