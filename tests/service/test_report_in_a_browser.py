# The report of a real job as a person sees it: opened from a file, in a chromium that may ask for nothing else.
from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from service.db.session import Database
from service.export.report import make_report
from service.ledger import jobs, queries
from tests.service.conftest import Submit, WorkerMaker
from tests.service.test_pages_in_a_browser import page

__all__ = ["page"]  # the fixture

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_report_draws_its_figures_from_a_file_alone(
    db: Database, submit: Submit, make_worker: WorkerMaker, page: Page, tmp_path: Path
) -> None:
    job_id = submit(name="<script>document.title = 'owned'</script>", baselines=["adamw", "sgd"])
    make_worker().run_next()
    with db.read() as session:
        job = jobs.require_job(session, job_id)
        text = make_report(job, queries.result(session, job), queries.confirm_runs(session, job_id))
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    page.locator(".main-svg").first.wait_for()
    assert page.locator(".plotly-graph-div").count() >= 3
    assert page.locator(".plotly-graph-div .main-svg").first.is_visible()
    assert page.title().startswith("<script>document.title")
    for arm in ("warpadam", "adamw", "sgd"):
        assert page.locator("td", has_text=arm).count()
    assert page.get_by_text("Other comparisons: not significant").is_visible()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert problems == []
    page.screenshot(path=tmp_path / "report.png", full_page=True)
