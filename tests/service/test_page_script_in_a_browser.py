# What the script of the pages does when things go wrong: a lost answer, a service that is away, a mistaken choice.
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Dialog, Page, Route, expect

from service.client.rest import Client
from service.ledger import keys
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, search, succeed
from tests.service.data import files
from tests.service.live import Live, serve
from tests.service.test_pages_in_a_browser import PHONE, check_page, page

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

        def agree(dialog: Dialog) -> None:
            said.append(dialog.message)
            dialog.accept()

        page.on("dialog", agree)
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
    page.context.new_cdp_session(page).send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kathmandu"})
    for path in (f"/jobs/{job_id}", "/"):
        page.goto(live.url + path)
        page.route(live.url + path, lambda route: route.fulfill(status=status, body="<h1>Bad Gateway</h1>"))
        page.get_by_text("The service does not answer.").wait_for()
        assert "GMT+5:45" in page.locator("#away").inner_text()
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


ESTIMATED = re.compile("runs on fresh seeds, about")


def upload_codes(live: Live, folder: Path) -> str:
    """Upload a table whose column code has numbers that are names of classes; return the path of its form."""
    table = files.csv(600, code=[str(100 + 7 * (row % 43)) for row in range(600)])
    (folder / "codes.csv").write_bytes(table)
    with Client(live.url) as client:
        return f"/new?id={client.upload(folder / 'codes.csv')[0]['id']}"


def test_a_target_of_another_type_is_judged_by_what_fits_it(live: Live, page: Page, tmp_path: Path) -> None:
    metrics = page.locator("[name=metric] option:enabled")
    page.goto(live.url + upload_codes(live, tmp_path))
    page.get_by_label("Column to predict").select_option("code")
    page.get_by_text("This is a regression task").wait_for()
    assert "R2" in metrics.all_inner_texts()
    assert "accuracy" not in metrics.all_inner_texts()
    page.get_by_label("Judged by").select_option("R2")
    page.get_by_label("code is taken for").select_option("category")
    page.get_by_text("This is a classification task").wait_for()
    expect(page.get_by_label("Judged by")).to_have_value("val_loss")
    assert "accuracy" in metrics.all_inner_texts()
    assert "R2" not in metrics.all_inner_texts()
    page.get_by_label("Judged by").select_option("accuracy")
    page.locator("#estimate", has_text=ESTIMATED).wait_for()
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/jobs/job-*")
    page.go_back()
    page.get_by_text("This is a classification task").wait_for()
    page.locator("#estimate", has_text=ESTIMATED).wait_for()
    expect(page.get_by_label("Judged by")).to_have_value("val_accuracy")
    expect(page.get_by_role("button", name="Start")).to_be_enabled()


def test_a_column_that_holds_the_answer_is_named_before_the_start(live: Live, page: Page, tmp_path: Path) -> None:
    (tmp_path / "fees.csv").write_bytes(files.csv(200, fee=[str(row % 2) for row in range(200)]))
    with Client(live.url) as client:
        dataset, _ = client.upload(tmp_path / "fees.csv")
    page.goto(f"{live.url}/new?id={dataset['id']}")
    page.get_by_label("Column to predict").select_option("label")
    expect(page.locator("#estimate")).to_contain_text(
        "Note: column 'fee' alone tells the target nearly perfectly: choose ignore below unless it is known when"
    )
    with page.expect_response(lambda answer: "dry_run" in answer.url):
        page.get_by_label("fee is taken for").select_option("ignore")
    expect(page.locator("#estimate")).to_contain_text(ESTIMATED)
    expect(page.locator("#estimate")).not_to_contain_text("fee")


def test_a_form_that_the_browser_fills_in_again_is_estimated(live: Live, page: Page, tmp_path: Path) -> None:
    page.goto(live.url + upload_codes(live, tmp_path))
    page.get_by_label("Column to predict").select_option("label")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/jobs/job-*")
    page.go_back()
    expect(page.get_by_label("Column to predict")).to_have_value("label")
    page.get_by_text("This is a classification task").wait_for()
    page.locator("#estimate", has_text=ESTIMATED).wait_for()


def test_a_tag_that_no_job_can_have_is_refused_in_its_field(live: Live, page: Page, spec: SpecMaker) -> None:
    with Client(live.url) as client:
        client.submit(spec(tags=["v1.0_a-b"]))
    page.goto(live.url)
    show = page.get_by_role("button", name="Show", exact=True)
    page.get_by_label("Tag").fill("My Tag")
    show.click()
    assert page.evaluate("document.activeElement.validationMessage")
    assert page.url == f"{live.url}/"
    page.get_by_label("Tag").fill("v1.0_a-b")
    show.click()
    page.get_by_role("link", name="all jobs").wait_for()
    assert page.get_by_role("link", name="v1.0_a-b").count() == 1


def test_a_form_that_is_filled_in_wrongly_shows_no_estimate(live: Live, page: Page) -> None:
    page.goto(f"{live.url}/new?name=wine")
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text(ESTIMATED)
    page.get_by_label("Trials of each optimizer").fill("0")
    expect(estimate).to_contain_text("Trials of each optimizer: ")
    expect(estimate).not_to_contain_text(ESTIMATED)
    page.get_by_label("Trials of each optimizer").fill("3")
    expect(estimate).to_contain_text(ESTIMATED)


def test_a_limit_in_minutes_says_how_many_trials_fit_and_can_be_raised(live: Live, page: Page) -> None:
    page.goto(f"{live.url}/new?name=wine")
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text(ESTIMATED)
    page.get_by_label("Trials of each optimizer").fill("10000")
    page.get_by_label("Minutes for each optimizer").fill("0.5")
    expect(estimate).to_contain_text(re.compile(r"About [\d,]+ of 20,001 trials and .* fit into the minutes for each"))
    page.get_by_label("Minutes for each optimizer").fill("0.1")
    page.get_by_label("Steps of each run").fill("1000000")
    expect(estimate).to_contain_text("The job would probably fail: no trial of warpadam, adamw and adamw_default would")
    expect(estimate).to_contain_text("and at most 10,080 are allowed: give fewer trials or steps")
    page.get_by_label("Steps of each run").fill("400")
    page.get_by_label("Minutes for each optimizer").fill("10080")
    expect(estimate).to_contain_text(re.compile(r"^20,001 trials and"))
    page.get_by_label("Minutes for each optimizer").fill("30")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/jobs/job-*")
    with Client(live.url) as client:
        (job,) = client.jobs()
        assert client.job(job["id"])["spec"]["budget"]["max_seconds"] == 1800


def test_a_field_that_the_service_refuses_is_marked_and_called_as_on_the_page(
    live: Live, page: Page, tmp_path: Path
) -> None:
    page.goto(live.url + upload_codes(live, tmp_path))
    page.get_by_label("Column to predict").select_option("label")
    split = page.get_by_label("Rows to test on")
    split.select_option("group:label")
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text("Rows to test on: must be another column than the target.")
    expect(split).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Start").click()
    expect(split).to_be_focused()
    split.select_option("")
    expect(estimate).to_contain_text(ESTIMATED)
    expect(split).not_to_have_attribute("aria-invalid", "true")
    page.get_by_label("city is taken for").select_option("date")
    expect(estimate).to_contain_text("Column city: must be a kind that the values have")
    with Client(live.url) as client:
        (dataset,) = client.datasets()
        client.delete_dataset(dataset["id"])
    page.get_by_role("button", name="Start").click()
    expect(estimate).to_have_text("This file was deleted. Go to the page Jobs and choose it again.")


def test_a_file_can_be_chosen_again_after_a_step_back(live: Live, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(files.csv(120))
    page.goto(live.url)
    page.get_by_label("Drop a file here").set_input_files(path)
    page.wait_for_url("**/new*")
    page.go_back()
    file = page.get_by_label("Drop a file here")
    expect(file).to_have_value("")  # a browser calls nothing a change that chooses the same file
    expect(page.locator("#upload .said")).to_have_text("")


REFUSED = {
    "notes.docx": (b"PK", "The file's name must end with .csv, .tsv, .*Save its data as .csv or .xlsx."),
    "tables.zip": (files.archive({"tables/a.csv": files.csv(60)}), "this one has 'tables/a.csv'; unpack it, and give"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_of_another_kind_is_refused_in_words_for_the_page(
    live: Live, page: Page, tmp_path: Path, name: str
) -> None:
    content, said = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    page.goto(live.url)
    page.get_by_label("Drop a file here").set_input_files(tmp_path / name)
    expect(page.locator("#upload .said")).to_contain_text(re.compile(said))
    assert "parameter" not in page.locator("#upload .said").inner_text()


def test_a_file_may_have_a_name_that_is_longer_than_the_service_keeps(live: Live, page: Page, tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 230}.csv"
    path.write_bytes(files.csv(120))
    page.goto(live.url)
    page.get_by_label("Drop a file here").set_input_files(path)
    page.get_by_role("heading", name=f"{'n' * 96}.csv").wait_for()


def test_a_session_that_has_ended_leads_to_a_new_one_and_the_form_stays(live: Live, page: Page) -> None:
    key, _ = keys.create(live.db, "local", keys.Scope.SUBMIT)
    page.goto(f"{live.url}/new?name=wine")
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Sign in").click()
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text(ESTIMATED)
    expect(page.get_by_role("link", name="API key")).to_have_attribute(
        "href", f"{live.url}/sign-in?next=%2Fnew%3Fname%3Dwine"
    )
    page.context.clear_cookies()
    page.get_by_label("Trials of each optimizer").fill("3")
    page.get_by_role("button", name="Start").click()
    expect(estimate).to_contain_text("Sign in again in a new tab, then press Start here.")
    with page.context.expect_page() as opened:
        estimate.get_by_role("link").click()
    opened.value.get_by_label("API key", exact=True).fill(key)
    opened.value.get_by_role("button", name="Sign in").click()
    opened.value.wait_for_url("**/new?name=wine")
    expect(page.get_by_label("Trials of each optimizer")).to_have_value("3")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/jobs/job-*")


LONG = "SehrLangerNameOhneLeerzeichen_"
ZOOMED = (640, 450)
"""A window of 1280 x 900 at 200 %."""


def test_no_name_makes_a_page_wider_than_its_window(live: Live, page: Page, spec: SpecMaker, tmp_path: Path) -> None:
    path = tmp_path / f"{LONG * 3}.csv"
    path.write_bytes(files.csv(120).replace(b"city", f"{LONG * 2}Spalte".encode(), 1))
    with Client(live.url) as client:
        pages = [f"/new?id={client.upload(path)[0]['id']}", "/"]
        jobs = []
        for name in (f"{LONG * 3}1", f"{LONG * 3}2"):
            jobs.append(client.submit(spec(name=name, tags=[LONG[:30].lower().rstrip("_")]))["id"])
            succeed(claim_job(live.db))
    pages += [f"/compare?ids={jobs[0]}&ids={jobs[1]}", f"/jobs/{jobs[0]}"]
    for path_of_page in pages:
        page.goto(live.url + path_of_page)
        check_page(page)
        for width, height in (PHONE, ZOOMED):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path_of_page
            for box in (cell.bounding_box() for cell in page.locator("#jobs tbody td.line").all()):
                assert box is not None
                assert box["x"] + box["width"] <= width, "a tag hides how the jobs stand"


def test_a_file_that_changes_while_it_is_sent_is_asked_for_again(live: Live, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("a,b\n" + "1,2\n" * 100_000)

    def change(route: Route) -> None:
        path.write_text("something else")
        route.continue_()

    page.goto(live.url)
    page.route("**/v1/datasets*", change)
    page.get_by_label("Drop a file here").set_input_files(path)
    page.get_by_text("numbers.csv can no longer be read: it has changed").wait_for()
    page.unroute_all()
    path.write_bytes(files.csv(120))
    page.get_by_label("Drop a file here").set_input_files(path)
    page.get_by_role("heading", name="numbers.csv").wait_for()


def test_a_watched_page_whose_key_is_revoked_leads_to_the_sign_in(live: Live, page: Page, spec: SpecMaker) -> None:
    key, row = keys.create(live.db, "vision", keys.Scope.SUBMIT)
    with Client(live.url, api_key=key) as client:
        job_id = client.submit(spec())["id"]
    page.goto(f"{live.url}/jobs/{job_id}")
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Waiting for a worker").wait_for()
    keys.revoke(live.db, row.id)
    page.get_by_role("heading", name="Sign in").wait_for()
