# The pages say what the API says, for people: how to start, how a job stands, what it found, and what is wrong.
from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from search_spaces import Choice, get_preset
from service.api.pages import charts
from service.api.pages.importance import LEAST_TRIALS, Importances
from service.api.pages.search import DRAWN_TRIALS, FAILED_TRIALS
from service.db.models import RecommendationRow, utc_now
from service.db.session import Database
from service.export.snippet import optimizer_lines
from service.ledger import keys, queries
from service.ledger.jobs import require_job
from service.ledger.runs import RunLog
from service.optimizers import OPTIMIZERS
from service.planning.arms import ArmPlan
from service.planning.plan import make_plan, plan_of
from service.registry import import_object
from service.states import JobState, TrialState
from service.training.run import CurvePoint, Ended
from tests.service.api.conftest import Submit, claim_job, search, sqlite_only, succeed
from tests.service.cli.test_serve import wait_for
from tests.service.data import files

pytestmark = sqlite_only

HOSTILE = "<script>alert('hi')</script>"


def text_of(page: str) -> str:
    """Return the words of a page, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.replace("<wbr>", "")).split())


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
    assert re.search(r"first succeeded helps 23.6 % better wine", words)
    assert "people.csv 40 rows" in words
    assert 'data-live="3000"' in page


def test_the_time_left_is_guessed_from_the_time_with_a_worker(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit(budget={"trials_per_arm": 20, "steps": 10, "batch_size": 32}, confirm={"seeds": 6})
    log = claim_job(db)
    search(log, trials=5)
    with db.write() as session:
        row = require_job(session, job["id"])
        row.started_at = utc_now() - timedelta(days=9)  # most of them paused, or before an extension
        row.worker_seconds = 60.0 * queries.run_counts(session, [row.id])[row.id].trials
        plan = plan_of(row.spec, row.dataset_info)
    runs = sum(plan.trials(arm) + sum(plan.race_rounds(arm)) + 6 for arm in plan.arms)
    for path in ("/", job["links"]["self"].removeprefix("/v1")):
        assert f"about {runs - 11} minutes left" in text_of(client.get(path).text)


def test_runs_that_an_extension_adds_are_to_come(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit(confirm={"seeds": 8})
    succeed(claim_job(db), varies=True)
    client.post(f"{job['links']['self']}/extend", json={"seeds": 24})
    claim_job(db).verify()
    for path in ("/", job["links"]["self"].removeprefix("/v1")):
        (done,) = map(int, re.findall(r'<progress max="100" value="(\d+)"', client.get(path).text))
        assert 20 < done < 40


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
    answer = words.index("Yes, WarpAdam is better than AdamW here")
    assert answer < words.index("With P the test loss is 23.6 % lower at equal steps.")
    assert words.index("WarpAdam against AdamW") < words.index("optimizer = WarpAdam(")
    assert "23.6 % better" in words
    assert f"{job['links']['export']}?format=zip" in page
    assert "data-live" not in page


@pytest.mark.parametrize(
    ("parts", "gain", "formats"),
    [
        ({}, 0.25, {"zip", "python", "json"}),
        ({"family": {"class_subsets": {"ways": 2}}}, -0.25, {"json"}),
    ],
)
def test_a_job_page_and_its_report_offer_only_what_can_be_exported(
    client: TestClient, submit: Submit, db: Database, parts: dict[str, Any], gain: float, formats: set[str]
) -> None:
    job = submit(**parts)
    succeed(claim_job(db), gain=gain)
    page, report = client.get(f"/jobs/{job['id']}").text, client.get(job["links"]["report"]).text
    assert set(re.findall(r"\?format=(\w+)", page)) == formats
    assert formats >= set(re.findall(r"--format (\w+)", report))
    refused = {form for form in ("zip", "python", "json") if export_status(client, job, form) == 409}
    assert refused == {"zip", "python", "json"} - formats


def test_a_model_is_offered_only_if_it_was_kept(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()
    succeed(claim_job(db))
    words = text_of(client.get(f"/jobs/{job['id']}").text)
    assert "Config and script (zip)" in words
    assert "trained model" not in client.get(job["links"]["report"]).text
    weights = {"file": "w", "sha256": "0", "preprocessing_sha256": "0", "seed": 1, "test_loss": 0.5}
    with db.write() as session:
        row = session.get_one(RecommendationRow, job["id"])
        row.data = {**row.data, "weights": weights}
    assert "Model and config (zip)" in text_of(client.get(f"/jobs/{job['id']}").text)
    assert "trained model" in client.get(job["links"]["report"]).text


def test_a_job_page_offers_no_file_of_a_job_that_this_version_cannot_read(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job = submit()
    succeed(claim_job(db))
    with db.write() as session:
        row = require_job(session, job["id"])
        row.spec = {**row.spec, "model": {"name": "of another version"}}
    assert export_status(client, job, "json") == 409
    assert "?format=" not in client.get(f"/jobs/{job['id']}").text


def export_status(client: TestClient, job: dict[str, Any], form: str) -> int:
    return int(client.get(job["links"]["export"], params={"format": form}).status_code)


def test_a_job_page_follows_the_job_until_it_ends(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()
    page = client.get(f"/jobs/{job['id']}").text
    assert "Waiting for a worker" in page
    assert f'data-live="5000" data-events="{job["links"]["events"]}?cursor=1"' in page
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


def test_home_takes_as_many_tags_as_the_api(client: TestClient) -> None:
    tags = [f"t{number}" for number in range(1100)]
    assert client.get("/", params={"tag": tags[:10]}).status_code == 200
    for count in (11, 1100):
        page = client.get("/", params={"tag": tags[:count]})
        assert page.status_code == 404
        assert "Back to all jobs" in page.text


def test_times_on_home_say_their_zone(client: TestClient, submit: Submit) -> None:
    job = submit()
    when = datetime.fromisoformat(job["created_at"]).strftime("%Y-%m-%d %H:%M UTC")
    assert when in text_of(client.get("/").text)


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


def test_trials_without_a_value_have_their_place_on_the_axis(client: TestClient) -> None:
    values = [("a", None), ("a", 2.0), ("a", None), ("a", 1.0), ("a", None), ("none", None), ("late", None)]
    found = charts.search(["a", "none", "late"], [*values, ("late", None), ("late", 2.0)], rises=False)
    assert found is not None
    assert found.length == 5
    assert [(line.arm, line.colour, line.points) for line in found.lines] == [
        ("a", 0, "25,0 75,0 75,100 100,100"),
        ("late", 2, "50,0"),
    ]
    assert charts.search(["none"], [("none", None)], rises=False) is None


@pytest.mark.parametrize("rises", [False, True])
def test_the_best_of_each_arm_lies_within_the_chart(client: TestClient, rises: bool) -> None:
    values = [("far", 9.0), ("far", 8.0), ("near", 0.5), ("near", 0.25), ("middle", 0.75)]
    found = charts.search(["far", "near", "middle"], values, rises=rises)
    assert found is not None
    assert sorted((found.top, found.bottom)) == [0.25, 8.0]
    assert found.lines[0].points.endswith("100,100" if rises else "100,0")


def test_a_job_page_shows_the_learning_curve_of_the_best_trials(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job = submit()
    log = claim_job(db)
    search(log, trials=2, points=[5, 10])
    page = client.get(f"/jobs/{job['id']}").text
    assert "Learning curves" in page
    assert "warpadam, trial 0: 0.5 at step 5" in text_of(page)
    assert page.count('<line class="best') == 3
    assert re.search(r'aria-label="warpadam ends at 0.5. adamw ends at 0.5', page)


def test_the_curve_of_a_running_trial_grows(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()
    log = claim_job(db)
    log.start_arm("warpadam")
    trial = log.add_trial("warpadam", make_plan(log.spec).arm("warpadam").space.first_trials[0])
    log.start_trial(trial.id)
    for step in (5, 10):
        log.add_points([(trial.id, CurvePoint(step, 0.5, 0.5, 0.1))])
        words = text_of(client.get(f"/jobs/{job['id']}").text)
        assert "warpadam, trial 0 (running): 0.5 at step 5" in words
        assert f"{step} steps" in words


def test_the_cause_of_a_failed_trial_is_one_click_away(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()
    log = claim_job(db)
    space = make_plan(log.spec).arm("warpadam").space
    log.start_arm("warpadam")
    for number in range(FAILED_TRIALS + 5):
        trial = log.add_trial("warpadam", space.first_trials[0])
        log.finish_trial(trial.id, Ended(TrialState.FAILED, cause=f"{HOSTILE} {number}"), 0.1)
    page = client.get(f"/jobs/{job['id']}").text
    assert '<details id="failed"><summary>' in page
    assert "&lt;script&gt;alert(&#39;hi&#39;)&lt;/script&gt; 19" in page
    assert "&lt;/script&gt; 20" not in page
    assert "The first 20 of 25." in text_of(page)
    assert client.get(f"{job['links']['trials']}/19").json()["cause"] == f"{HOSTILE} 19"


def test_the_axis_of_the_search_counts_the_trials_of_the_table(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job = submit(budget={"trials_per_arm": 3, "steps": 10, "batch_size": 32})
    log = claim_job(db)
    space = make_plan(log.spec).arm("warpadam").space
    log.start_arm("warpadam")
    for state in (TrialState.COMPLETE, TrialState.DIVERGED, TrialState.FAILED):
        trial = log.add_trial("warpadam", space.first_trials[0])
        log.finish_trial(trial.id, Ended(state, 0.5, None, 0.1), 0.1)
    words = text_of(client.get(f"/jobs/{job['id']}").text)
    assert "3 of 3" in words
    assert "1 3 trials" in " ".join(words.split())


def search_adamw(submit: Submit, db: Database) -> tuple[dict[str, Any], RunLog, ArmPlan]:
    job = submit(budget={"trials_per_arm": 2 * LEAST_TRIALS, "steps": 10, "batch_size": 32})
    log = claim_job(db)
    log.start_arm("adamw")
    return job, log, make_plan(log.spec).arm("adamw")


def finish_trial(log: RunLog, arm: ArmPlan, index: int) -> None:
    trial = log.add_trial(arm.name, dict(arm.space.first_trials[0]) | {"lr": 0.001 * (1 + index)})
    log.finish_trial(trial.id, Ended(TrialState.COMPLETE, abs(index - 7.5)), 0.1)


def test_importances_come_with_enough_trials(client: TestClient, submit: Submit, db: Database) -> None:
    job, log, arm = search_adamw(submit, db)
    for index in range(LEAST_TRIALS):
        words = text_of(client.get(f"/jobs/{job['id']}").text)
        assert "is being computed" not in words
        if index > 1:
            assert f"from {LEAST_TRIALS} completed trials on. This optimizer has {index}." in words
        finish_trial(log, arm, index)
    importances = client.app.state.importances  # type: ignore[attr-defined]
    importances.of(db, job["id"], arm, LEAST_TRIALS)
    importances.close()
    words = text_of(client.get(f"/jobs/{job['id']}").text)
    assert "lr 100 %" in words
    assert "All 20 completed trials. Each line is a trial" in words


def test_importances_come_after_the_database_was_away(client: TestClient, submit: Submit, db: Database) -> None:
    job, log, arm = search_adamw(submit, db)
    for index in range(LEAST_TRIALS):
        finish_trial(log, arm, index)
    importances, away = Importances(), Database("sqlite:////no/such/folder/warptune.db")
    assert importances.of(away, job["id"], arm, LEAST_TRIALS) is None
    wait_for(lambda: importances.of(db, job["id"], arm, LEAST_TRIALS) is not None)
    assert importances.of(db, job["id"], arm, LEAST_TRIALS) == {"lr": 1.0}
    importances.close()
    away.close()


def test_parallel_coordinates_show_settings_that_differ(client: TestClient) -> None:
    space = get_preset("default")
    first = dict(space.first_trials[0])
    found = charts.parallel(space, [(first, 0.5), (first | {"lr": 0.1}, 1.0)], "loss")
    assert found is not None
    assert [axis.name for axis in found.axes] == ["lr", "loss"]
    assert charts.parallel(space, [(first, 0.5), (first, 1.0)], "loss") is None


def test_values_that_a_space_no_longer_has_are_drawn_below_the_others(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job, log, arm = search_adamw(submit, db)
    space, first = arm.space, dict(arm.space.first_trials[0])
    assert isinstance(space["weight_decay"].domain, Choice)
    for odd in ({}, {"weight_decay": 0.0123}, {"lr": 1e9}):
        trial = log.add_trial("adamw", first | odd)
        log.finish_trial(trial.id, Ended(TrialState.COMPLETE, 0.5), 0.1)
    page = client.get(f"/jobs/{job['id']}")
    assert page.status_code == 200
    assert "All 3 completed trials." in text_of(page.text)
    for setting, value in (("weight_decay", 0.0123), ("weight_decay", "none"), ("lr", "fast")):
        drawn = charts.parallel(space, [(first, 1.0), (first | {setting: value}, 2.0)], "loss")
        assert drawn is not None
        assert drawn.lines[0].startswith(f"8,{charts.AXIS_BOTTOM} ")


@pytest.mark.parametrize("runs", [1, 2, 3, 64])
def test_the_mean_of_huge_losses_is_drawn(client: TestClient, runs: int) -> None:
    found = charts.learning({"a": [[(1, 1.7e308), (10, 1.0)]] * runs})
    assert found is not None
    assert found.lines[0].last == 1.0
    drawn = charts.learning({"a": [[(1, 1.0), (10, 1.7e308)]] * runs})
    assert drawn is not None
    assert drawn.top == pytest.approx(1.7e308)


def test_a_page_of_many_trials_draws_the_best_of_them(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit(budget={"trials_per_arm": 150, "steps": 10, "batch_size": 32})
    log = claim_job(db)
    space = make_plan(log.spec).arm("adamw").space
    log.start_arm("adamw")
    for index in range(DRAWN_TRIALS + 10):
        trial = log.add_trial("adamw", dict(space.first_trials[0]) | {"lr": 0.001 * (1 + index)})
        log.finish_trial(trial.id, Ended(TrialState.COMPLETE, 1.0 + index), 0.1)
    page = client.get(f"/jobs/{job['id']}").text
    assert "The 100 best of 110 completed trials." in text_of(page)
    assert "The best 25 of 110." in text_of(page)
    drawing = page[page.index('<svg class="parallel') :]
    assert drawing.count("<polyline") == DRAWN_TRIALS


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_a_mistyped_address_is_a_page_for_people_only(client: TestClient, accept: str) -> None:
    answer = client.get("/jbos", headers={"Accept": accept})
    assert answer.status_code == 404
    assert ("Back to all jobs" in answer.text) == (accept == "text/html")


def test_redoc_leads_to_the_docs(client: TestClient) -> None:
    assert client.get("/redoc", follow_redirects=False).headers["location"] == "/docs"


def test_a_key_that_can_only_read_sees_no_button_that_would_be_refused(
    client: TestClient, submit: Submit, db: Database
) -> None:
    done = submit(confirm={"seeds": 8})
    succeed(claim_job(db), varies=True)
    failed = submit()
    claim_job(db).end(JobState.FAILED, "no trial completed")
    paths = ["/", "/new?name=wine", *(f"/jobs/{job['id']}" for job in (done, failed, submit()))]

    def buttons(scope: keys.Scope) -> list[int]:
        key, _ = keys.create(db, "local", scope)
        pages = [client.get(path, headers={"Authorization": f"Bearer {key}"}) for path in paths]
        assert [page.status_code for page in pages] == [200] * len(paths)
        return [len(re.findall(r'data-post|data-cancel|id="upload"|type="submit"', page.text)) for page in pages]

    assert all(buttons(keys.Scope.SUBMIT))
    assert not any(buttons(keys.Scope.READ))
