# The report of a real job as a person sees it: opened from a file, in a chromium that may ask for nothing else.
from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page

from service.api.pages.report import make_report
from service.db.models import Job
from service.db.session import Database
from service.ledger import jobs, queries
from tests.service.conftest import Submit, WorkerMaker
from tests.service.results import NO_FINDINGS, STATISTICS, a_comparison, a_result
from tests.service.test_pages_in_a_browser import check_page, page

__all__ = ["page"]  # the fixture

MAX_BYTES = 200_000
"""A report is read on a phone, and sent by mail."""

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
    assert page.title().startswith("<script>document.title")
    for arm in ("warpadam", "adamw", "sgd"):
        assert page.locator("td", has_text=arm).count()
    for name in ("Why", "Next step", "How it went", "Details"):
        assert page.get_by_role("heading", name=name).is_visible()
    for drawn in (".forest .mean", ".forest .row .small", "polyline.line", "polygon.band"):
        assert page.locator(drawn).first.bounding_box(), drawn
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert problems == []
    assert path.stat().st_size < MAX_BYTES
    check_page(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_forest_plot_can_be_read_on_a_phone_and_on_a_dark_page(
    page: Page, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    result = a_result(
        statistics=STATISTICS.model_copy(update={"luck": 0.125}),
        at_equal_seconds=STATISTICS,
        findings=NO_FINDINGS.model_copy(update={"comparisons": [a_comparison(arm="adamw_more_steps")]}),
    )
    path = tmp_path / "report.html"
    path.write_text(make_report(Job(id="job-0", name="small", spec={}), result, []), encoding="utf-8")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(path.as_uri())
    style = page.evaluate("() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] }")
    dark, light = ("rgb(28, 31, 35)", "rgb(255, 255, 255)"), ("rgb(232, 234, 237)", "rgb(22, 24, 27)")
    assert tuple(style) == (dark if scheme == "light" else light)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    rows = page.locator(".forest .row svg")
    assert rows.count() == 3
    for row in rows.all():
        box = row.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert 150 < box["width"] <= 390
        assert box["x"] + box["width"] <= 390
    for label in ("equal steps", "equal time", "adamw_more_steps"):
        assert page.locator(".forest .label", has_text=label).count() == 1
