# Jobs on families of tasks from POST to recommendation: the API, a real worker, real slot processes.
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.db.session import Database
from service.settings import Settings
from service.states import JobState
from tests.conftest import SpecMaker
from tests.service.conftest import WorkerMaker, get_job, get_trials

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]

ROTATION: dict[str, Any] = {
    "preset": "quick",
    "overrides": {
        "structure": "kronecker",
        "learner": "rotation",
        "beta1": 0.8,
        "beta2": 0.95,
        "p_lr": 0.003,
        "meta_every": 1,
        "lr": [0.01, 0.006],
    },
}
"""What works on few-shot digits, but for lr; AdamW tunes all it has."""


@pytest.fixture
def client(settings: Settings, db: Database) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


def run_job(client: TestClient, db: Database, make_worker: WorkerMaker, body: dict[str, Any]) -> dict[str, Any]:
    """Post a job, run it, and return its recommendation."""
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    make_worker().run_next()
    assert get_job(db, job_id).cause is None
    found: dict[str, Any] = client.get(f"/v1/jobs/{job_id}/recommendation").json()
    return found


def test_p_learned_on_other_digits_helps_on_unseen_ones(
    client: TestClient, db: Database, make_worker: WorkerMaker, spec: SpecMaker
) -> None:
    body = spec(
        dataset={"name": "digits"},
        model={"name": "mlp", "hidden": [64, 64]},
        family={"class_subsets": {"ways": 5}, "learn_tasks": 10, "learn_steps": 50, "evaluate_tasks": 5},
        search_space=ROTATION,
        budget={"trials_per_arm": 4, "steps": 20, "batch_size": 32},
    )
    found = run_job(client, db, make_worker, body)
    assert (found["verdict"], found["arm"]) == ("helps", "warpadam"), found["reason"]
    family = found["findings"]["family"]
    assert {part: len(names) for part, names in family["tasks"].items()} == {
        "meta_train": 190,
        "meta_validation": 5,
        "meta_test": 5,
    }
    repaid = family["break_even"]
    assert repaid["learning_steps"] == 500
    assert repaid["challenger_steps"] < repaid["baseline_steps"]
    assert repaid["tasks_in_steps"] > 0
    print(found["reason"], repaid)


def test_p_learned_on_some_groups_of_a_table_halves_the_steps_on_unseen_groups(
    client: TestClient, db: Database, make_worker: WorkerMaker, spec: SpecMaker
) -> None:
    overrides = {**ROTATION["overrides"], "lr": 0.01}
    body = spec(
        dataset={"name": "digits"},
        model={"name": "autoencoder", "hidden": [48], "code": 16},
        family={"group_by": "pixel_2_3", "learn_tasks": 12, "learn_steps": 50},
        search_space={"preset": "quick", "overrides": overrides},
        budget={"trials_per_arm": 3, "steps": 60, "batch_size": 32},
    )
    found = run_job(client, db, make_worker, body)
    assert (found["verdict"], found["arm"]) == ("helps", "warpadam"), found["reason"]
    repaid = found["findings"]["family"]["break_even"]
    print(found["reason"], repaid)
    assert repaid["missed"] == 0
    assert repaid["challenger_steps"] <= repaid["baseline_steps"] / 2
    assert repaid["tasks_in_steps"] is not None


def test_a_job_on_groups_of_too_few_says_why_it_fails(
    client: TestClient, db: Database, make_worker: WorkerMaker, spec: SpecMaker
) -> None:
    answer = client.post("/v1/jobs", json=spec(dataset={"name": "diabetes"}, family={"group_by": "sex"}))
    job_id = answer.json()["id"]
    make_worker().run_next()
    job = get_job(db, job_id)
    assert job.state == JobState.FAILED
    assert "the family has 2 tasks of at least 10 rows, but needs 3" in (job.cause or "")
    assert get_trials(db, job_id) == []
