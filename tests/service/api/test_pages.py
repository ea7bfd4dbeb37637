# The pages say what the API says, for people: how to start, how a job stands, what it found, and what is wrong.
from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from service.api.pages import charts
from service.db.session import Database
from service.export.snippet import optimizer_lines
from service.ledger import queries
from service.ledger.jobs import require_job
from service.optimizers import OPTIMIZERS
from service.planning.plan import plan_of
from service.registry import import_object
from service.states import JobState
from tests.service.api.conftest import Submit, claim_job, search, sqlite_only, succeed
from tests.service.data import files

pytestmark = sqlite_only

HOSTILE = "<script>alert('hi')</script>"


def text_of(page: str) -> str:
    """Return the words of a page, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_home_says_how_to_start(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "There are no jobs yet." in page.text
    assert 'type="file"' in page.text
    for asset in re.findall(r'(?:src|href)="(/assets/[^"]+)"', page.text):
        assert client.get(asset).status_code == 200


FOLDERS = ["assets", "static", "static-offline-docs"]
ODD = ["", "none.css", "%00", "%ff", "%2e%2e/routes.py", "..%5croutes.py", "x" * 5000, "page.css/x"]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", ODD)
def test_a_file_that_does_not_exist_is_not_found(client: TestClient, folder: str, name: str) -> None:
    assert client.get(f"/{folder}/{name}").status_code == 404


def test_the_icon_that_browsers_ask_for_is_there(client: TestClient) -> None:
    icon = client.get("/favicon.ico")
    assert icon.headers["content-type"] == "image/svg+xml"
    assert icon.content.startswith(b"<svg")


def test_home_lists_jobs_and_files(client: TestClient, submit: Submit, db: Database) -> None:
    submit(name="first")
    succeed(claim_job(db))
    submit(name="second")
    search(claim_job(db))
    submit(name="third")
    client.post("/v1/datasets", params={"filename": "people.csv"}, content=files.csv())
    page = client.get("/").text
    words = text_of(page)
    assert re.search(r"third queued", words)
    assert re.search(r"second \d\d %", words)
    assert re.search(r"first succeeded helps wine", words)
    assert "people.csv 40 rows" in words
    assert 'data-live="3000"' in page


def test_a_new_job_shows_each_column_and_what_may_be_wrong(client: TestClient) -> None:
    table = files.csv(60, code=[f"{row:05d}" for row in range(60)])
    dataset = client.post("/v1/datasets", params={"filename": "people.csv"}, content=table).json()
    assert dataset["model"] == {"name": "mlp", "hidden": [64, 64]}
    words = text_of(client.get(f"/new?id={dataset['id']}").text)
    assert "people.csv 60 rows, 5 columns." in words
    for column in dataset["columns"]:
        assert column["name"] in words
        assert all(warning in words for warning in column["warnings"])
    assert "id (left out)" in words


def test_a_bundled_dataset_can_be_tried(client: TestClient) -> None:
    assert "178 rows, 13 features, classification." in text_of(client.get("/new?name=wine").text)


def test_what_users_name_is_never_a_part_of_the_page(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit(name=HOSTILE)
    succeed(claim_job(db))
    table = files.csv().replace(b"city", HOSTILE.replace("'", "").encode())
    dataset = client.post("/v1/datasets", params={"filename": f"{HOSTILE}.csv"}, content=table).json()
    for path in ("/", f"/jobs/{job['id']}", f"/new?id={dataset['id']}"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;" in page


def test_a_job_page_begins_with_the_answer(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit(name="mine")
    succeed(claim_job(db))
    page = client.get(f"/jobs/{job['id']}").text
    words = text_of(page)
    assert words.index("Yes, P helps") < words.index("With P the test loss is 23.6 % lower at equal steps.")
    assert words.index("optimizer = WarpAdam(") < words.index("How much better than adamw?")
    assert "23.6 % better" in words
    assert f"{job['links']['export']}?format=zip" in page
    assert "data-live" not in page


def test_a_job_page_follows_the_job_until_it_ends(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()
    page = client.get(f"/jobs/{job['id']}").text
    assert "Waiting for a worker" in page
    assert f'data-live="5000" data-events="{job["links"]["events"]}"' in page
    search(claim_job(db))
    assert "Searching" in client.get(f"/jobs/{job['id']}").text
    client.post(f"{job['links']['self']}/cancel")
    page = client.get(f"/jobs/{job['id']}").text
    assert f'data-cancel="{job["links"]["self"]}/cancel"' in page


def test_a_job_page_says_why_a_job_failed(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()
    claim_job(db).end(JobState.FAILED, "no trial completed")
    page = client.get(f"/jobs/{job['id']}").text
    assert "The job failed" in page
    assert "No trial completed." in page
    assert f'data-post="{job["links"]["self"]}/retry"' in page


@pytest.mark.parametrize("path", ["/jobs/no-such-job", "/new?id=ds-none", "/new?name=none", "/new", "/new?nmae=wine"])
def test_an_address_without_a_page_is_a_page_too(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Back to all jobs" in answer.text


@pytest.mark.parametrize("gain", [0.25, -0.25])
def test_the_lines_to_copy_make_the_recommended_optimizer(
    client: TestClient, submit: Submit, db: Database, gain: float
) -> None:
    job = submit()
    succeed(claim_job(db), gain=gain)
    with db.read() as session:
        row = require_job(session, job["id"])
        result, plan = queries.result(session, row), plan_of(row.spec, row.dataset_info)
    lines = optimizer_lines(plan, result)
    assert lines is not None
    names: dict[str, Any] = {"model": torch.nn.Linear(3, 2)}
    exec(lines, names)
    build = import_object(OPTIMIZERS[plan.arm(result.arm).optimizer].build)
    expected = build(names["model"], result.config)
    assert type(names["optimizer"]) is type(expected)
    assert names["optimizer"].state_dict() == expected.state_dict()


def test_a_page_of_ten_thousand_trials_is_as_small_as_one_of_many(client: TestClient, submit: Submit) -> None:
    values = [("warpadam", 1 + 1 / (1 + trial)) for trial in range(5)]
    values += [("warpadam", 5.0)] * 10_000
    found = charts.search(["warpadam"], values, rises=False)
    assert found is not None
    assert found.length == 10_005
    assert found.lines[0].points.count(" ") < 12
