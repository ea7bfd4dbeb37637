# What the script of the pages does when things go wrong: a lost answer, a service that is away, a mistaken choice.
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from service.client.rest import Client
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, search, succeed
from tests.service.live import Live, serve
from tests.service.test_pages_in_a_browser import page

__all__ = ["page"]  # the fixture

pytestmark = [pytest.mark.slow, pytest.mark.browser]

WAIT_MS = 60_000


@pytest.fixture
def live(tmp_path: Path, page: Page) -> Iterator[Live]:
    """A service without a worker. It ends before the browser, which would hold its streams open."""
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    with serve(tmp_path) as running:
        yield running
        page.context.close()


class LoseAnswers:
    """Sends the first requests to the service, and loses their answers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, route: Route) -> None:
        """Lose the answer, or let it through."""
        if self.count:
            self.count -= 1
            route.fetch()
            route.abort()
        else:
            route.continue_()


def test_a_start_pressed_again_after_a_lost_answer_starts_no_second_job(live: Live, page: Page) -> None:
    page.route(re.compile("/v1/jobs$"), LoseAnswers(2))
    start = page.get_by_role("button", name="Start")
    page.goto(f"{live.url}/new?name=wine")
    for _ in range(2):
        start.click()
        page.get_by_text("The service does not answer.").wait_for()
    start.click()
    page.wait_for_url("**/jobs/job-*")
    with Client(live.url) as client:
        assert len(list(client.jobs())) == 1
        for count in (2, 3):  # the same job twice, if that is what the reader wants
            page.goto(f"{live.url}/new?name=wine")
            start.click()
            page.wait_for_url("**/jobs/job-*")
            assert len(list(client.jobs())) == count


def test_more_seeds_asked_for_again_after_a_lost_answer_are_added_once(live: Live, page: Page, spec: SpecMaker) -> None:
    with Client(live.url) as client:
        job_id = client.submit(spec(confirm={"seeds": 8}))["id"]
        succeed(claim_job(live.db), varies=True)
        page.goto(f"{live.url}/jobs/{job_id}")
        page.route("**/extend", LoseAnswers(1))
        page.on("dialog", lambda dialog: dialog.dismiss())
        add = page.get_by_role("button", name="Add 21 seeds")
        add.click()
        expect(add).to_be_enabled()
        succeed(claim_job(live.db), varies=True)
        add.click()
        page.wait_for_url(f"**/jobs/{job_id}")
        assert client.job(job_id)["spec"]["confirm"]["seeds"] == 8 + 21


PROBLEM = '{"detail": "the database does not answer"}'


@pytest.mark.parametrize(("name", "what"), [("Pause", "pause"), ("Cancel the job", "cancel")])
def test_a_button_works_again_after_an_error(live: Live, page: Page, spec: SpecMaker, name: str, what: str) -> None:
    with Client(live.url) as client:
        job_id = client.submit(spec())["id"]
        said: list[str] = []
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.accept()))
        page.route(re.compile(f"/{what}$"), lambda route: route.fulfill(status=503, body=PROBLEM))
        page.goto(f"{live.url}/jobs/{job_id}")
        page.evaluate("document.querySelector('main').removeAttribute('data-live')")  # a refresh would make a new one
        button = page.get_by_role("button", name=name)
        button.click()
        expect(button).to_be_enabled()
        assert said[-1] == "the database does not answer"
        page.unroute_all()
        with page.expect_response(re.compile(f"/{what}$")) as answered:
            button.click()
        assert answered.value.status == 202


@pytest.mark.parametrize("status", [404, 429, 502, 503])
def test_a_watched_page_goes_on_after_a_proxy_or_the_database_was_away(
    live: Live, page: Page, spec: SpecMaker, status: int
) -> None:
    with Client(live.url) as client:
        job_id = client.submit(spec())["id"]
    search(claim_job(live.db))
    for path in (f"/jobs/{job_id}", "/"):
        page.goto(live.url + path)
        page.route(live.url + path, lambda route: route.fulfill(status=status, body="<h1>Bad Gateway</h1>"))
        page.get_by_text("The service does not answer.").wait_for()
        assert page.get_by_role("progressbar").count() == 1
        page.unroute_all()
        expect(page.locator("#away")).to_have_count(0)
        expect(page.get_by_role("progressbar")).to_have_count(1)


def test_a_watched_page_of_a_job_that_was_deleted_says_so(live: Live, page: Page, spec: SpecMaker) -> None:
    with Client(live.url) as client:
        job_id = client.submit(spec())["id"]
        page.goto(f"{live.url}/jobs/{job_id}")
        client.cancel(job_id)
        page.get_by_role("heading", name="The job was cancelled").wait_for()
        client.submit(spec())
        page.goto(f"{live.url}/")
        for job in list(client.jobs()):
            if job["state"] != "cancelled":
                client.cancel(job["id"])
            client.delete(job["id"])
    page.get_by_text("There are no jobs yet.").wait_for()


HIDE = """(isHidden) => {
    Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
"""A Chromium without a window shows every tab, so a test says which ones are hidden."""


def test_many_jobs_can_be_watched_at_once(live: Live, page: Page, spec: SpecMaker) -> None:
    with Client(live.url) as client:
        job_id = client.submit(spec())["id"]
    assert page.context.browser
    with page.context.browser.new_context() as window:
        window.set_default_timeout(WAIT_MS)
        tabs = [window.new_page() for _ in range(8)]
        for tab in tabs:
            with tab.expect_request("**/events?*"):
                tab.goto(f"{live.url}/jobs/{job_id}")
            tab.evaluate(HIDE, arg=True)
        with tabs[0].expect_request("**/events?*"):
            tabs[0].evaluate(HIDE, arg=False)
        search(claim_job(live.db))
        tabs[0].get_by_role("heading", name="Searching").wait_for()
        assert tabs[1].get_by_role("heading", name="Waiting for a worker").count() == 1
