# Jobs and datasets that another version of the service has stored: shown as far as they can be, refused where they
# would have to be understood, never a bug.
from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.db.models import ConfirmRun, DatasetRow, Job, RecommendationRow, Trial
from service.db.session import Database
from service.ledger.jobs import require_job
from tests.conftest import SpecMaker
from tests.service.api.conftest import Submit, assert_problem, claim_job, sqlite_only, succeed
from tests.service.conftest import WorkerMaker
from tests.service.data import files

pytestmark = sqlite_only

Stored = dict[str, Any]
NEEDS_THE_PLAN = ("trials", "trials/0", "export", "export?format=python")
SHOWN = ("events", "recommendation", "report")


def change(
    db: Database, kind: type[Job | DatasetRow | RecommendationRow], column: str, how: Callable[[Stored], Any]
) -> None:
    """Change the one row of a table as another version would have written it."""
    with db.write() as session:
        row = session.query(kind).one()
        stored: Stored = copy.deepcopy(getattr(row, column))
        how(stored)
        setattr(row, column, stored)


SPECS: dict[str, tuple[Callable[[Stored], Any], str]] = {
    "unknown field": (lambda spec: spec.update(shiny=1), "shiny"),
    "unknown field of a part": (lambda spec: spec.update(budget=spec["budget"] | {"shiny": 1}), "budget.shiny"),
    "unknown choice": (lambda spec: spec.update(search=spec["search"] | {"sampler": "cmaes"}), "search.sampler"),
    "unknown model": (lambda spec: spec.update(model={"name": "rnn"}), "model"),
    "value out of range": (lambda spec: spec.update(confirm=spec["confirm"] | {"seeds": 3}), "confirm.seeds"),
    "unknown preset": (
        lambda spec: spec.update(search_space={"preset": "gone", "overrides": {}}),
        "search_space.preset",
    ),
    "unknown baseline": (lambda spec: spec.update(baselines=["adamw", "lion"]), "baselines[1]"),
    "unknown dataset": (lambda spec: spec.update(dataset=spec["dataset"] | {"name": "mnist"}), "dataset.name"),
}


@pytest.mark.parametrize("case", SPECS)
def test_a_job_with_a_spec_that_is_not_known_is_shown_as_it_was_stored(
    client: TestClient, submit: Submit, db: Database, case: str
) -> None:
    how, field = SPECS[case]
    job = submit()["links"]["self"]
    succeed(claim_job(db))
    change(db, Job, "spec", how)
    with db.read() as session:
        stored = dict(session.query(Job).one().spec)
    answer = client.get(job)
    assert answer.status_code == 200, answer.text
    assert answer.json()["spec"] == stored
    assert len(client.get("/v1/jobs").json()["items"]) == 1
    for path in SHOWN:
        assert client.get(f"{job}/{path}").status_code == 200, path
    for path in NEEDS_THE_PLAN:
        detail = assert_problem(client.get(f"{job}/{path}"), 409, "conflict")["detail"]
        assert field in detail
        assert "this version of the service cannot follow" in detail
    assert client.delete(job).status_code == 204


def test_a_job_without_a_field_that_came_later_has_its_default(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job = submit()
    succeed(claim_job(db))
    change(db, Job, "spec", lambda spec: (spec.pop("training"), spec["budget"].pop("max_seconds")))
    answer = client.get(job["links"]["self"]).json()
    assert answer["spec"]["training"] == job["spec"]["training"]
    assert [arm["seconds_cap"] for arm in answer["arms"]] == [600.0, 600.0, 600.0]
    for path in (*SHOWN, *NEEDS_THE_PLAN[:3]):
        assert client.get(f"{job['links']['self']}/{path}").status_code == 200, path


@pytest.mark.parametrize(
    ("number", "stored"),
    [
        (0, {"strategy": "gone/pre/gone", "lr": 0.01}),
        (0, {"shiny": 1}),
        (0, {"lr": "fast"}),
        (2, {"lr": -1.0}),
        (2, {"beta1": 0.9, "beta2": None}),
        (4, {"lr": 0.1}),
        (4, {"momentum": "much"}),
        (4, {"momentum": None}),
    ],
)
def test_a_trial_with_values_that_its_optimizer_refuses_shows_them_as_they_were_stored(
    client: TestClient, submit: Submit, db: Database, number: int, stored: Stored
) -> None:
    job = submit(baselines=["adamw", "sgd"])
    succeed(claim_job(db))
    with db.write() as session:
        session.query(Trial).filter(Trial.number == number).update({"params": stored})
    shown = client.get(f"{job['links']['trials']}/{number}")
    assert shown.status_code == 200, shown.text
    assert (shown.json()["params"], shown.json()["config"]) == (stored, stored)
    assert shown.json().items() >= client.get(job["links"]["trials"]).json()["items"][number].items()
    page = client.get(f"/jobs/{job['id']}")
    assert page.status_code == 200, page.text


def test_a_job_that_cannot_be_followed_is_neither_extended_nor_taken_over(
    client: TestClient, submit: Submit, db: Database, spec: SpecMaker
) -> None:
    job = submit()
    succeed(claim_job(db))
    change(db, Job, "spec", lambda stored: stored.update(shiny=1))
    assert_problem(client.post(f"{job['links']['self']}/extend", json={"seeds": 1}), 409, "conflict")
    body = spec(search={"from_job": job["id"]})
    assert_problem(client.post("/v1/jobs", json=body), 409, "conflict")


def test_a_worker_fails_a_job_that_it_cannot_follow(
    client: TestClient, submit: Submit, db: Database, make_worker: WorkerMaker
) -> None:
    job = submit()
    change(db, Job, "spec", lambda stored: stored.update(shiny=1))
    assert make_worker().run_next()
    with db.read() as session:
        cause = require_job(session, job["id"]).cause
    assert cause is not None
    assert cause.startswith("this version of the service cannot follow the job's spec")


@pytest.mark.parametrize(
    ("how", "missing"),
    [
        (lambda data: data.update(verdict="maybe"), "verdict"),
        (lambda data: data["statistics"].pop("baseline_mean"), "baseline_mean"),
    ],
)
def test_a_recommendation_that_is_not_known_is_refused(
    client: TestClient, submit: Submit, db: Database, how: Callable[[Stored], Any], missing: str
) -> None:
    job = submit()["links"]["self"]
    succeed(claim_job(db))
    change(db, RecommendationRow, "data", how)
    for path in ("recommendation", "report", "export"):
        assert missing in assert_problem(client.get(f"{job}/{path}"), 409, "conflict")["detail"]


def test_a_report_of_curves_that_are_not_known_is_refused(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()["links"]["self"]
    succeed(claim_job(db))
    with db.write() as session:
        session.query(ConfirmRun).update({"curve": [[10, 0.5]]})
    detail = assert_problem(client.get(f"{job}/report"), 409, "conflict")["detail"]
    assert "the learning curve of a confirmation run" in detail


def test_facts_that_are_not_known_are_left_out(client: TestClient, db: Database, spec: SpecMaker) -> None:
    dataset = client.post("/v1/datasets", params={"filename": "a.csv"}, content=files.csv()).json()
    columns = [{"shiny": 1}]
    change(
        db,
        DatasetRow,
        "facts",
        lambda facts: facts.update(shiny=1, columns=[facts["columns"][0] | columns[0], *facts["columns"][1:]]),
    )
    assert client.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    body = spec(dataset={"id": dataset["id"], "target": "label"})
    job = client.post("/v1/jobs", json=body)
    assert job.status_code == 202, job.text
    change(db, Job, "dataset_info", lambda info: info.update(shiny=1))
    assert client.get(job.json()["links"]["trials"]).status_code == 200
    change(db, Job, "dataset_info", lambda info: info.pop("features"))
    assert_problem(client.get(job.json()["links"]["trials"]), 409, "conflict")


def test_a_dataset_of_a_layout_that_is_not_known_is_refused(client: TestClient, db: Database, spec: SpecMaker) -> None:
    dataset = client.post("/v1/datasets", params={"filename": "a.csv"}, content=files.csv()).json()
    change(db, DatasetRow, "facts", lambda facts: facts.update(layout="graph"))
    assert "graph" in assert_problem(client.get(f"/v1/datasets/{dataset['id']}"), 409, "conflict")["detail"]
    assert [item["id"] for item in client.get("/v1/datasets").json()["items"]] == [dataset["id"]]
    body = spec(dataset={"id": dataset["id"], "target": "label"})
    assert_problem(client.post("/v1/jobs", json=body), 409, "conflict")
    assert client.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
