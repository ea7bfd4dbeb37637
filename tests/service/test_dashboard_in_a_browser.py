# The dashboard as a person sees it: a real chromium, a real job.
from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from playwright.sync_api import sync_playwright

from tests.conftest import SpecMaker
from tests.service.test_serve import Service, start, wait_for

__all__ = ["start"]  # the fixture

CHROMIUM = shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]


@pytest.mark.slow
@pytest.mark.browser
def test_the_dashboard_shows_each_arm_as_a_study_while_the_job_runs(
    start: Callable[..., Service],
    spec: SpecMaker,
) -> None:
    assert CHROMIUM, "this test needs Debian's chromium on the PATH"
    service = start()
    job_id = service.client.submit(spec(budget={"trials_per_arm": 4, "steps": 300, "batch_size": 32}))["id"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync"])
        page = browser.new_page()
        page.goto(f"{service.url}/dashboard")
        page.get_by_text(f"{job_id}/warpadam").first.wait_for()
        assert service.client.job(job_id)["state"] == "running"
        wait_for(lambda: service.client.job(job_id)["state"] in ("verifying", "succeeded"))
        page.reload()
        page.get_by_text(f"{job_id}/adamw").first.click()
        page.get_by_text("Best Trial").first.wait_for()
        browser.close()
