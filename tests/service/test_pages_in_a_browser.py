# The pages as a person sees them, in a real chromium.
from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from service.db.session import Database
from service.ledger import keys
from service.states import JobState, TrialState
from service.training.run import Ended
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, search, succeed
from tests.service.cli.test_serve import Start, start, wait_for
from tests.service.data import files

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
    wait_for(lambda: service.client.job(job_id)["state"] == "running")
    page.goto(f"{service.url}/dashboard")
    page.get_by_text(f"{job_id}/warpadam").first.wait_for()
    assert service.client.job(job_id)["state"] == "running"
    wait_for(lambda: service.client.job(job_id)["state"] in ("verifying", "succeeded"))
    page.reload()
    page.get_by_text(f"{job_id}/adamw").first.click()
    page.get_by_text("Best Trial").first.wait_for()


PHONE = (390, 844)
DESK = (1280, 900)

TARGET_PX = 24
"""Smallest size of what a finger hits, by WCAG 2.2, except links inside a sentence."""

SMALL_TARGETS = """(least) => [...document.querySelectorAll("main :is(button, select, input, summary)")]
    .filter((one) => one.checkVisibility() && one.type !== "hidden")
    .filter((one) => Math.min(one.getBoundingClientRect().width, one.getBoundingClientRect().height) < least)
    .map((one) => one.outerHTML)"""


def check_page(page: Page) -> None:
    """Look for what a screen reader, a keyboard or a finger cannot use, on a desk and a phone, light and dark."""
    for width, height in (PHONE, DESK):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page).response["violations"]
            serious = [
                (item["id"], item["nodes"])
                for item in found
                if item["impact"] in ("serious", "critical") or item["id"] == "heading-order"
            ]
            assert not serious, (width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(SMALL_TARGETS, TARGET_PX) == []


def watch_console(page: Page) -> list[str]:
    """Return the list that the page's errors are added to."""
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return errors


def test_jobs_are_chosen_on_the_home_page_and_shown_side_by_side(start: Start, page: Page, spec: SpecMaker) -> None:
    service = start("--no-worker")
    errors = watch_console(page)
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    for number in range(3):
        budget = {"trials_per_arm": 2, "steps": 10 + number, "batch_size": 32}
        service.client.submit(spec(name=f"try {number}", tags=["tries"], budget=budget))
        succeed(claim_job(db), gain=0.25 * (number + 1))
    service.client.submit(spec(name="another"))
    db.close()

    page.goto(service.url)
    check_page(page)
    page.get_by_label("compare try 0").check()
    page.get_by_role("button", name="Compare the chosen jobs").click()
    page.get_by_text("Choose two jobs or more.").wait_for()
    with page.expect_response(f"{service.url}/"):
        page.get_by_role("heading", name="Jobs", exact=True).click()  # the focus leaves, so the page is loaded again
    page.get_by_label("compare try 2").check()
    page.get_by_role("button", name="Compare the chosen jobs").click()
    page.get_by_role("heading", name="2 jobs side by side").wait_for()
    page.get_by_text("try 2 has the best test loss").wait_for()
    page.get_by_role("row", name="budget.steps 12 10").wait_for()
    check_page(page)

    page.get_by_role("link", name="Jobs").first.click()
    page.get_by_label("Tag").fill("tries")
    page.get_by_role("button", name="Show", exact=True).click()
    page.get_by_role("link", name="all jobs").wait_for()
    assert page.get_by_role("link", name="another").count() == 0
    check_page(page)
    assert not errors


def test_a_file_comes_to_an_answer_without_a_word_of_code(start: Start, page: Page, tmp_path: Path) -> None:
    service = start()
    errors = watch_console(page)
    (tmp_path / "people.csv").write_bytes(files.csv(120))

    page.goto(service.url)
    page.get_by_text("There are no jobs yet.").wait_for()
    check_page(page)
    page.get_by_label("Drop a file here").set_input_files(tmp_path / "people.csv")

    page.get_by_role("heading", name="people.csv").wait_for()
    page.get_by_label("note is taken for").select_option("ignore")
    page.get_by_label("Column to predict").select_option("label")
    page.get_by_label("Judged by").select_option("accuracy")
    page.get_by_label("Trials of each optimizer").fill("2")
    page.get_by_label("Training steps of each run").fill("20")
    page.locator("#estimate", has_text="runs on fresh seeds, about").wait_for()
    check_page(page)
    page.get_by_role("button", name="Start").click()

    page.locator("main[data-live]").wait_for()
    check_page(page)
    page.get_by_role("heading", name="WarpAdam against AdamW").wait_for(timeout=90_000)
    check_page(page)
    (job,) = service.client.jobs()
    spec = service.client.job(job["id"])["spec"]
    assert spec["dataset"]["columns"] == {"note": "ignore"}
    assert spec["objective"]["metric"] == "val_accuracy"
    with page.expect_download() as saved:
        page.get_by_role("link", name="Model and config (zip)").click()
    assert saved.value.suggested_filename == f"recommended-{job['id']}.zip"
    page.get_by_role("link", name="Jobs").first.click()
    page.get_by_role("link", name="people.csv").first.wait_for()
    check_page(page)
    assert not errors


def test_a_project_signs_in_works_and_signs_out(start: Start, page: Page, spec: SpecMaker) -> None:
    service = start("--no-worker")
    errors = watch_console(page)
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    job_id = service.client.submit(spec(name="before the first key"))["id"]
    succeed(claim_job(db))
    page.goto(f"{service.url}/sign-in")
    page.get_by_role("heading", name="No key is needed").wait_for()
    check_page(page)
    made = {project: keys.create(db, project, keys.Scope.SUBMIT)[0] for project in ("local", "other")}

    page.goto(f"{service.url}/jobs/{job_id}")
    page.get_by_label("API key", exact=True).fill(made["local"])
    check_page(page)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("before the first key").first.wait_for()
    page.goto(f"{service.url}/v1/jobs/{job_id}/report")
    assert page.evaluate("getComputedStyle(document.body).marginLeft") == "0px", "the report has its style"
    page.goto(f"{service.url}/new?name=wine")
    page.get_by_label("Trials of each optimizer").fill("2")
    page.get_by_label("Training steps of each run").fill("20")
    page.locator("#estimate", has_text="runs on fresh seeds, about").wait_for()
    page.get_by_role("button", name="Start").click()
    page.locator("main[data-live]").wait_for()
    assert not errors

    page.get_by_role("link", name="Optuna dashboard").click()
    page.get_by_role("heading", name="Your API key does not allow this").wait_for()
    check_page(page)
    page.get_by_role("link", name="API key").click()
    page.get_by_text("Project local, scope submit").wait_for()
    check_page(page)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key", exact=True).fill("wt_wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()
    check_page(page)
    page.get_by_label("API key", exact=True).fill(made["other"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("There are no jobs yet.").wait_for()
    page.goto(f"{service.url}/jobs/{job_id}")
    page.get_by_role("heading", name=f"There is no job '{job_id}'").wait_for()
    db.close()


def test_a_file_that_cannot_be_read_is_refused_on_the_page(start: Start, page: Page, tmp_path: Path) -> None:
    service = start("--no-worker")
    (tmp_path / "broken.csv").write_text("a,b\n" + "1,2\n" * 30 + "1\n")
    page.goto(service.url)
    page.get_by_label("Drop a file here").set_input_files(tmp_path / "broken.csv")
    page.get_by_text("Expected 2 columns, got 1").wait_for()


def test_the_page_of_a_job_draws_its_search_and_leads_to_the_dashboard(
    start: Start, page: Page, spec: SpecMaker
) -> None:
    service = start("--no-worker")
    errors = watch_console(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    job_id = service.client.submit(spec(name="drawn"))["id"]
    search(claim_job(db), points=[5, 10])
    db.close()
    page.goto(f"{service.url}/jobs/{job_id}")
    for drawn in ("line.best", "svg.parallel polyline.good"):
        assert page.locator(drawn).first.bounding_box(), drawn
    check_page(page)
    page.get_by_text("Advanced", exact=True).click()
    page.locator("#advanced").get_by_role("link", name="Optuna dashboard").click()
    page.get_by_role("button", name="Reload").wait_for()
    assert page.get_by_role("button", name="Create").count() == 0
    assert not errors
    assert all(url.startswith((service.url, "data:", "blob:")) for url in asked)


def is_above_the_fold(page: Page, selector: str, height: int) -> bool:
    box = page.locator(selector).first.bounding_box()
    assert box is not None, selector
    return box["y"] + box["height"] <= height


def test_each_page_answers_its_question_at_first_sight(start: Start, page: Page, spec: SpecMaker) -> None:
    service = start("--no-worker")
    errors = watch_console(page)
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    table = files.csv(60, code=[f"{row:05d}" for row in range(60)])
    (service.log.parent / "people.csv").write_bytes(table)
    dataset = service.client.upload(service.log.parent / "people.csv")[0]["id"]

    def submit(name: str, **parts: object) -> str:
        return f"/jobs/{service.client.submit(spec(name=name, **parts))['id']}"

    pages = {f"/new?id={dataset}": ("h1", "main > p.warning a"), "/new?name=wine": ("h1", "#estimate", "[type=submit]")}
    for name, gain, varies in (("helps", 0.25, False), ("hurts", -0.25, False), ("inconclusive", 0.25, True)):
        pages[submit(name)] = ("h1", f".word.{name}", ".forest", "h2:text-is('Next step')")
        succeed(claim_job(db), gain, varies=varies)
    pages[submit("failed")] = ("h1", "p.warning", "pre", "button")
    log = claim_job(db)
    log.start_arm("adamw")
    trial = log.add_trial("adamw", {"lr": 0.1})
    log.finish_trial(trial.id, Ended(TrialState.FAILED, 0.001, cause="ValueError: no\n  in a line"), 0.1)
    log.end(JobState.FAILED, "arm adamw completed no trial; the last cause: ValueError: no\n  in a line")
    pages[submit("running")] = ("h1", "progress", "button")
    search(claim_job(db))
    pages[submit("queued")] = ("h1", "p:text('Number 1')", "button")
    pages["/"] = ("h1", "#upload", "#jobs thead", "#jobs progress")
    pages["/?state=succeeded"] = ("h1", "#jobs .word.inconclusive")
    pages["/?state=cancelled"] = ("h1", "p:text('No job matches')")
    pages["/?state=bogus"] = pages["/no/such/page"] = ("h1", "main a")
    db.close()

    for path, first in pages.items():
        page.goto(service.url + path)
        if path.startswith("/new?name"):
            page.locator("#estimate", has_text="about").wait_for()
        for width, height in (PHONE, DESK):
            page.set_viewport_size({"width": width, "height": height})
            late = [selector for selector in first if not is_above_the_fold(page, selector, height)]
            assert not late, (path, width)
        check_page(page)
    assert all("404" in error for error in errors)


def test_a_failed_trial_is_not_among_the_best(start: Start, page: Page, spec: SpecMaker) -> None:
    service = start("--no-worker")
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    job_id = service.client.submit(spec())["id"]
    log = claim_job(db)
    search(log)
    for state in (TrialState.FAILED, TrialState.DIVERGED):
        trial = log.add_trial("warpadam", {})
        log.finish_trial(trial.id, Ended(state, 0.001, cause="ValueError: no"), 0.1)
    log.add_trial("warpadam", {})
    db.close()
    page.goto(f"{service.url}/jobs/{job_id}")
    assert set(page.locator("table.trials td:nth-child(3)").all_inner_texts()) == {"complete"}
    page.get_by_text("Why trials did not complete").click()
    assert page.locator("#failed dt").count() == 2


def test_a_list_that_moves_still_takes_a_file(start: Start, page: Page, spec: SpecMaker, tmp_path: Path) -> None:
    service = start("--no-worker")
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    service.client.submit(spec())
    search(claim_job(db))
    db.close()
    (tmp_path / "people.csv").write_bytes(files.csv(120))
    page.goto(service.url)
    for _ in range(2):
        with page.expect_response(f"{service.url}/"):
            pass
    page.get_by_label("Drop a file here").set_input_files(tmp_path / "people.csv")
    page.get_by_role("heading", name="people.csv").wait_for()


def test_a_page_that_moves_keeps_what_its_reader_does(start: Start, page: Page, spec: SpecMaker) -> None:
    service = start("--no-worker")
    errors = watch_console(page)
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    job_id = service.client.submit(spec(budget={"trials_per_arm": 9, "steps": 20}))["id"]
    log = claim_job(db)
    search(log)
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.goto(f"{service.url}/jobs/{job_id}")
    page.get_by_text("The spec of the job").click()
    table = page.locator(".wide", has=page.locator("table.trials"))
    table.evaluate("(one) => { one.scrollLeft = 30 }")
    for number in range(2):
        trial = log.add_trial("warpadam", {"lr": 0.1})
        log.finish_trial(trial.id, Ended(TrialState.COMPLETE, 0.75, None, 0.1), 0.1)
        page.get_by_role("row", name=f"warpadam {3 + number} of 9").wait_for()
    assert page.locator("#spec[open]").count() == 1
    assert page.evaluate("document.activeElement.textContent") == "The spec of the job"
    assert table.evaluate("(one) => one.scrollLeft") == 30
    db.close()
    assert not errors

    service.process.terminate()
    page.get_by_text("The service does not answer.").wait_for()


def test_an_unclear_answer_is_one_click_away_from_more_evidence(start: Start, page: Page, spec: SpecMaker) -> None:
    service = start("--no-worker")
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    job_id = service.client.submit(spec(confirm={"seeds": 8}))["id"]
    succeed(claim_job(db), varies=True)
    db.close()
    page.goto(f"{service.url}/jobs/{job_id}")
    page.get_by_role("button", name="Add 21 seeds").click()
    page.get_by_role("heading", name="Waiting for a worker").wait_for()
    assert service.client.job(job_id)["spec"]["confirm"]["seeds"] == 8 + 21


def test_the_lines_can_be_copied_where_browsers_allow_it_and_are_selected_elsewhere(
    start: Start, page: Page, spec: SpecMaker
) -> None:
    service = start("--no-worker")
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    job_id = service.client.submit(spec())["id"]
    succeed(claim_job(db))
    db.close()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{service.url}/jobs/{job_id}")
    lines = page.locator("#code").inner_text()
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == lines
    page.reload()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as on http://name-of-host
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Selected: press Ctrl+C").wait_for()
    assert page.evaluate("getSelection().toString()").strip() == lines.strip()
