# The pages as a person sees them, in a real chromium.
from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.conftest import SpecMaker
from tests.service.cli.test_serve import Start, start, wait_for

__all__ = ["start"]  # the fixture

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CHROMIUM = shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture
def page() -> Iterator[Page]:
    assert CHROMIUM, "this test needs Debian's chromium on the PATH"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync"])
        yield browser.new_page()
        browser.close()


def test_the_docs_need_nothing_from_outside(start: Start, page: Page) -> None:
    service = start("--no-worker")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/docs")
    page.get_by_text("/v1/jobs/{job_id}/recommendation").first.wait_for()
    assert all(url.startswith((service.url, "data:")) for url in asked)


def test_the_dashboard_shows_each_arm_as_a_study_while_the_job_runs(start: Start, page: Page, spec: SpecMaker) -> None:
    service = start()
    job_id = service.client.submit(spec(budget={"trials_per_arm": 4, "steps": 300, "batch_size": 32}))["id"]
    page.goto(f"{service.url}/dashboard")
    page.get_by_text(f"{job_id}/warpadam").first.wait_for()
    assert service.client.job(job_id)["state"] == "running"
    wait_for(lambda: service.client.job(job_id)["state"] in ("verifying", "succeeded"))
    page.reload()
    page.get_by_text(f"{job_id}/adamw").first.click()
    page.get_by_text("Best Trial").first.wait_for()
