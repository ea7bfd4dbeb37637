# Jobs are found by their tags and their state: in the list of the API, and on the home page.
from __future__ import annotations

import html

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from service.db.session import Database
from service.states import JobState
from tests.service.api.conftest import Submit, claim_job, search, sqlite_only, succeed
from tests.service.api.test_pages import text_of


def names(client: TestClient, query: str) -> list[str]:
    return [job["name"] for job in client.get(f"/v1/jobs?{query}").json()["items"]]


def test_jobs_are_found_by_every_tag_and_by_state(client: TestClient, submit: Submit, db: Database) -> None:
    both = submit(name="both", tags=["churn", "v2.1"])
    assert both["tags"] == both["spec"]["tags"] == ["churn", "v2.1"]
    succeed(claim_job(db))
    submit(name="one", tags=["churn"])
    plain = submit(name="none")
    assert names(client, "tag=churn") == ["one", "both"]
    assert names(client, "tag=churn&tag=v2.1") == ["both"]
    assert names(client, "tag=churn&state=succeeded") == ["both"]
    assert names(client, "tag=chur") == names(client, "tag=CHURN") == []
    assert client.get("/v1/jobs").json()["items"][0]["tags"] == plain["tags"] == []
    assert client.delete(both["links"]["self"]).status_code == 204
    assert names(client, "tag=churn") == ["one"]


@pytest.mark.parametrize("tags", [["two words"], [""], ["-a"], ["a", "a"], ["x" * 31], [f"t{i}" for i in range(11)]])
def test_a_tag_is_a_short_word(shared_client: TestClient, tags: list[str]) -> None:
    body = {"dataset": {"name": "wine"}, "model": {"name": "mlp"}, "tags": tags}
    errors = shared_client.post("/v1/jobs", json=body).json()["errors"]
    assert [error["field"].removesuffix("[0]") for error in errors] == ["tags"]


@sqlite_only
def test_the_home_page_filters_too(client: TestClient, submit: Submit, db: Database) -> None:
    submit(name="first", tags=["churn"])
    claim_job(db).end(JobState.FAILED, "nothing")
    submit(name="second")
    page = client.get("/?state=failed&tag=").text  # as its form sends an empty field
    assert "first" in page
    assert "second" not in page
    assert "<option selected>failed</option>" in page
    assert 'href="/?tag=churn"' in page
    assert "second" not in client.get("/?tag=churn").text
    assert "No job matches." in client.get("/?tag=other").text
    wrong = client.get("/?state=finished")
    assert wrong.status_code == 404
    assert "State: must be 'queued', 'running'" in html.unescape(text_of(wrong.text))


@sqlite_only
def test_the_home_page_asks_as_few_questions_for_ten_jobs_as_for_two(
    client: TestClient, submit: Submit, db: Database
) -> None:
    asked: list[str] = []
    app = client.app
    event.listen(app.state.database.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))  # type: ignore[attr-defined]

    def count() -> int:
        asked.clear()
        assert client.get("/").status_code == 200
        return len(asked)

    def add(jobs: int) -> None:
        for _ in range(jobs):
            submit()
            succeed(claim_job(db))
            submit()
            search(claim_job(db))

    add(1)
    few = count()
    add(4)
    assert count() == few
