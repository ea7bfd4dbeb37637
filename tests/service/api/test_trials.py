# Trials are listed by number, with the config that their parameters stand for, and one is shown with its curve.
from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.db.session import Database
from service.ledger.runs import RunLog
from service.planning.plan import make_plan
from service.states import TrialState
from service.training.run import CurvePoint, Ended
from tests.service.api.conftest import Submit, assert_problem, claim_job, pages, search, sqlite_only


@pytest.fixture
def log(submit: Submit, db: Database) -> RunLog:
    """A running job of two tuned arms with three trials each, and one trial that is not tuned."""
    submit(budget={"trials_per_arm": 3, "steps": 10})
    log = claim_job(db)
    search(log, trials=3, points=(5, 10))
    return log


def listed(client: TestClient, log: RunLog, limit: int = 2, **query: Any) -> list[dict[str, Any]]:
    return [trial for page in pages(client, f"/v1/jobs/{log.job_id}/trials", limit, **query) for trial in page]


def test_trials_are_listed_by_number_page_by_page(client: TestClient, log: RunLog) -> None:
    for limit in (1, 2, 3, 7, 8):
        assert [trial["number"] for trial in listed(client, log, limit=limit)] == list(range(7))
    first = client.get(f"/v1/jobs/{log.job_id}/trials", params={"limit": 7}).json()
    assert first["next_cursor"] is None


def test_trials_are_filtered(client: TestClient, log: RunLog) -> None:
    trial = log.add_trial("adamw", {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0})
    log.finish_trial(trial.id, Ended(TrialState.DIVERGED, cause="the loss is not finite"), 1.0)
    assert [t["number"] for t in listed(client, log, arm="warpadam")] == [0, 1, 2]
    assert [t["number"] for t in listed(client, log, arm="adamw", state="complete")] == [3, 4, 5]
    (diverged,) = listed(client, log, state="diverged")
    assert (diverged["number"], diverged["value"], diverged["cause"]) == (7, None, "the loss is not finite")
    assert listed(client, log, arm="sgd") == listed(client, log, state="failed") == []


@sqlite_only
def test_trial_shows_its_config_and_its_curve(client: TestClient, log: RunLog) -> None:
    trial = client.get(f"/v1/jobs/{log.job_id}/trials/0").json()
    params = dict(make_plan(log.spec).arm("warpadam").space.first_trials[0])
    assert (trial["number"], trial["arm"], trial["state"], trial["value"]) == (0, "warpadam", "complete", 0.5)
    assert trial["params"] == params
    assert "/".join(trial["config"][name] for name in ("structure", "placement", "learner")) == params["strategy"]
    assert trial["config"]["lr"] == params["lr"]
    assert [(point["step"], point["val_loss"], point["seconds"]) for point in trial["curve"]] == [
        (5, 0.5, 0.05),
        (10, 0.5, 0.1),
    ]
    assert (trial["last_step"], trial["seconds"], trial["attempts"], trial["cause"]) == (10, 0.1, 1, None)
    assert trial["created_at"] <= trial["started_at"] <= trial["finished_at"]
    same = listed(client, log)[0]
    assert {**same, "curve": trial["curve"]} == trial


@sqlite_only
def test_trial_of_a_baseline_shows_the_arguments_of_its_optimizer(client: TestClient, log: RunLog) -> None:
    config = client.get(f"/v1/jobs/{log.job_id}/trials/3").json()["config"]
    assert config == {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}
    untuned = client.get(f"/v1/jobs/{log.job_id}/trials/6").json()
    assert (untuned["arm"], untuned["params"], untuned["config"]) == (
        "adamw_default",
        {},
        {**config, "lr": 0.001, "weight_decay": 0.01},
    )


@sqlite_only
def test_running_trial_shows_how_far_it_is(client: TestClient, log: RunLog) -> None:
    trial = log.add_trial("adamw", {"lr": 0.01})
    log.start_trial(trial.id)
    log.add_points([(trial.id, CurvePoint(5, 1.0, 0.9, 0.05))])
    shown = client.get(f"/v1/jobs/{log.job_id}/trials/{trial.number}").json()
    assert (shown["state"], shown["value"], shown["finished_at"]) == ("running", None, None)
    assert (shown["last_step"], len(shown["curve"])) == (5, 1)


@sqlite_only
@pytest.mark.parametrize("number", [7, 2**31 - 1])
def test_unknown_trial_is_not_found(client: TestClient, log: RunLog, number: int) -> None:
    problem = assert_problem(client.get(f"/v1/jobs/{log.job_id}/trials/{number}"), 404, "not_found")
    assert problem["detail"] == f"job {log.job_id} has no trial {number}"


@pytest.mark.parametrize(
    ("path", "field", "expected"),
    [
        ("/-1", "number", "greater than or equal to 0"),
        ("/x", "number", "a valid integer"),
        ("/1.5", "number", "a valid integer"),
        (f"/{2**31}", "number", "less than or equal to 2147483647"),
        ("?limit=0", "limit", "greater than or equal to 1"),
        ("?limit=201", "limit", "less than or equal to 200"),
        (f"?cursor={2**63}", "cursor", "less than or equal to 2147483647"),
        ("?state=done", "state", "'queued', 'running', 'complete'"),
        ("?arm=%00", "arm", "without the character NUL"),
        ("?arms=adamw", "arms", "Did you mean 'arm'?"),
    ],
)
def test_bad_query_names_the_parameter(shared_client: TestClient, path: str, field: str, expected: str) -> None:
    problem = assert_problem(shared_client.get(f"/v1/jobs/job-0/trials{path}"), 422, "invalid_spec")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert expected in problem["detail"]
