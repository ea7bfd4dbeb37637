# The report of a real job as a person sees it: opened from a file, in a chromium that may ask for nothing else.
from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page

from service.db.models import Job
from service.db.session import Database
from service.export.report import make_report
from service.ledger import jobs, queries
from tests.service.conftest import Submit, WorkerMaker
from tests.service.results import NO_FINDINGS, STATISTICS, a_comparison, a_result
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
    for label in ("← worse", "better →", "too small to matter: under 1 %"):
        assert page.locator("#figure-forest-plot text", has_text=label).first.is_visible()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert problems == []
    page.screenshot(path=tmp_path / "report.png", full_page=True)


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
    plot = page.locator("#figure-forest-plot")
    plot.locator(".main-svg").first.wait_for()
    style = page.evaluate("() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] }")
    light, dark = "rgb(255, 255, 255)", "rgb(0, 0, 0)"
    assert style[0] == (dark if scheme == "light" else light)
    assert (style[1] == light) is (scheme == "light")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for text in plot.locator("text").all():
        box = text.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert text.evaluate("node => getComputedStyle(node).fill") == style[0]
    for label in ("equal steps", "equal time", "adamw_more_steps"):
        assert plot.locator("text", has_text=label).count() == 1
    page.screenshot(path=tmp_path / "report.png")
