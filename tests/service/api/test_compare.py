# Jobs are put side by side over HTTP and on a page: what each found, and whether one may be called better.
from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.db.models import RecommendationRow
from service.db.session import Database
from service.result.compared import JobComparison, table
from tests.service.api.conftest import Submit, assert_problem, claim_job, sqlite_only, succeed
from tests.service.api.test_pages import HOSTILE, text_of

pytestmark = sqlite_only


def compare(client: TestClient, *ids: str) -> dict[str, Any]:
    answer = client.get("/v1/jobs/compare", params={"ids": ",".join(ids)})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_two_jobs_on_the_same_data_are_compared(client: TestClient, submit: Submit, db: Database) -> None:
    one = submit(name="one", tags=["first"])["id"]
    succeed(claim_job(db), gain=0.25)
    two = submit(name="two", budget={"trials_per_arm": 2, "steps": 20, "batch_size": 32})["id"]
    succeed(claim_job(db), gain=0.75)
    found = compare(client, one, two)
    assert [job["id"] for job in found["jobs"]] == [one, two]
    assert (found["comparable"], found["best"]) == (True, two)
    assert found["jobs"][1]["settings"] == {"budget.steps": 20}, "name and tags change nothing"
    assert [job["verdict"] for job in found["jobs"]] == ["helps", "helps"]
    tested = found["jobs"][1]["test_loss"]
    assert tested["interval"][0] < tested["mean"] < tested["interval"][1]
    assert found["summary"].startswith("two has the best test loss: 0.3099 (95 % interval 0.2642 to 0.3556).")
    assert "overlap" not in found["summary"]


def test_training_loops_are_compared_on_validation(client: TestClient, submit: Submit, db: Database) -> None:
    ids = []
    for gain in (0.25, 0.75):
        ids.append(submit()["id"])
        succeed(claim_job(db), gain=gain)
    with db.write() as session:  # as the result of a training loop says
        for row in session.query(RecommendationRow):
            row.data = {**row.data, "part": "validation"}
    found = compare(client, *ids)
    assert [job["part"] for job in found["jobs"]] == ["validation"] * 2
    assert found["summary"].startswith(f"{ids[1]} has the best validation loss: ")
    labels = [label for label, _ in table(JobComparison.model_validate(found))]
    assert "validation loss" in labels
    assert not [label for label in labels if label.startswith("test")]


def test_chance_is_named_where_the_intervals_overlap(client: TestClient, submit: Submit, db: Database) -> None:
    ids = []
    for gain in (0.25, 0.3):
        ids.append(submit(name="twice")["id"])
        succeed(claim_job(db), gain=gain)
    summary = compare(client, *ids)["summary"]
    assert summary.startswith(f"{ids[1]} has the best test loss"), "the name is that of both"
    assert f"Chance may explain the difference to {ids[0]}: the 95 % intervals overlap." in summary


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"dataset": {"name": "digits"}}, r"their data differ \(wine; digits\)"),
        ({"model": {"name": "autoencoder"}, "dataset": {"name": "digits"}}, "their data differ"),
        (
            {"objective": {"metric": "val_accuracy"}},
            r"other metrics \(validation loss; validation accuracy\)",
        ),
        ({"family": {"class_subsets": {"ways": 2}}}, r"the same data in other ways \(family\)"),
    ],
)
def test_what_cannot_be_compared_says_why(
    client: TestClient, submit: Submit, db: Database, other: dict[str, Any], reason: str
) -> None:
    found = compare(client, submit()["id"], submit(**other)["id"])
    assert (found["comparable"], found["best"]) == (False, None)
    assert re.fullmatch(rf"These jobs cannot be compared: .*{reason}.*\.", found["summary"])


def test_a_model_that_learns_something_else_is_not_compared(client: TestClient, submit: Submit) -> None:
    digits = {"name": "digits"}
    ids = (submit(dataset=digits)["id"], submit(dataset=digits, model={"name": "autoencoder"})["id"])
    assert "their models learn other things (classification; autoencoding)" in compare(client, *ids)["summary"]


def test_a_job_without_a_result_is_shown_too(client: TestClient, submit: Submit, db: Database) -> None:
    done = submit(name="done")["id"]
    succeed(claim_job(db))
    found = compare(client, done, submit(name="waits")["id"])
    assert found["best"] is None
    assert found["summary"] == "The scores can be compared once the jobs have succeeded: waits has no tested score yet."
    assert found["jobs"][1]["config"] == found["jobs"][0]["config"] == {}
    assert found["jobs"][1]["test_loss"] is None


@pytest.mark.parametrize("query", ["ids=", "ids=job-1", "ids=job-1,job-1", "ids=" + ",".join(map(str, range(11)))])
def test_too_few_or_too_many_jobs_are_refused(client: TestClient, query: str) -> None:
    problem = assert_problem(client.get(f"/v1/jobs/compare?{query}"), 422, "invalid_spec")
    assert problem["errors"][0]["message"] == "must name 2 to 10 different jobs, separated by commas"
    page = client.get(f"/compare?{query}")
    assert page.status_code == 404
    assert "Ids: must name 2 to 10 different jobs, separated by commas" in text_of(page.text)


def test_a_job_that_does_not_exist_is_named(client: TestClient, submit: Submit) -> None:
    problem = assert_problem(client.get(f"/v1/jobs/compare?ids={submit()['id']},job-0"), 404, "not_found")
    assert problem["detail"] == "there is no job 'job-0'"


def test_the_page_shows_what_the_route_answers(client: TestClient, submit: Submit, db: Database) -> None:
    ids = []
    for name, steps in ((HOSTILE, 10), ("two", 20)):
        budget = {"trials_per_arm": 2, "steps": steps, "batch_size": 32}
        ids.append(submit(name=name, budget=budget)["id"])
        succeed(claim_job(db))
    home = client.get("/").text
    assert all(f'name="ids" value="{job}"' in home for job in ids)
    page = client.get("/compare", params={"ids": ids})  # as the form of the home page sends them
    assert page.status_code == 200
    words = text_of(page.text)
    assert "2 jobs side by side" in words
    assert "budget.steps 10 20" in words
    assert "does P help? helps helps" in words
    assert "<script>alert" not in page.text
