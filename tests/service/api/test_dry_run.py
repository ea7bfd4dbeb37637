# A dry run answers what a job would do and cost, queues nothing, and leaves torch to another process.
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.data import reader
from service.data.catalog import BUNDLED
from service.db.session import Database
from service.spec.models import MlpSpec
from service.submission import estimate as estimate_module
from service.training.networks import linear_layers
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, count_rows
from tests.service.data import files
from tests.service.data.prepared import split_of
from tests.service.engines.contract import is_alive
from warpadam import WarpAdamConfig, estimate_memory

DRY = "/v1/jobs?dry_run=true"


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run takes no steps; each is said to last 0.01 seconds."""
    measured = {"seconds_a_step": 0.01, "p_bytes": 0.0}
    monkeypatch.setattr(estimate_module, "_measure", lambda plan, _: {arm.name: measured for arm in plan.arms})


@pytest.mark.slow
def test_plan_names_arms_trials_seconds_and_memory_and_queues_nothing(
    shared_client: TestClient, shared_db: Database, spec: SpecMaker
) -> None:
    before = count_rows(shared_db)
    body = spec(baselines=["adamw", "muon"], controls=["random_p"], budget={"trials_per_arm": 5, "steps": 100})
    answer = shared_client.post(DRY, json=body)
    assert answer.status_code == 200, answer.text
    plan: dict[str, Any] = answer.json()
    assert count_rows(shared_db) == before
    arms = {arm["name"]: arm for arm in plan["arms"]}
    assert [(name, arm["role"]) for name, arm in arms.items()] == [
        ("warpadam", "warpadam"),
        ("adamw", "baseline"),
        ("muon", "baseline"),
        ("random_p", "control"),
        ("adamw_default", "untuned"),
    ]
    assert (plan["trials"], plan["confirm_runs"]) == (4 * 5 + 1, 4 * (5 + 4 + 3 + 2 + 6) + 6)
    assert (arms["adamw_default"]["trials"], arms["adamw_default"]["confirm_runs"]) == (1, 6)
    assert all(0 < arm["seconds_a_run"] < 60 for arm in arms.values())
    assert plan["seconds"] == pytest.approx(sum(arm["seconds"] for arm in arms.values()))
    for name, arm in arms.items():
        assert arm["seconds"] == pytest.approx((7 if name == "adamw_default" else 25) * arm["seconds_a_run"])
    config = {"structure": "kronecker", "placement": "sandwich", "learner": "rotation", "meta_every": 2, "p_lr": 0.03}
    model = linear_layers(MlpSpec(hidden=[8]).layer_sizes(BUNDLED["wine"].info), "relu")
    assert arms["warpadam"]["p_bytes"] == estimate_memory(model, WarpAdamConfig.from_dict(config)).p_bytes
    assert plan["p_bytes"] == max(arm["p_bytes"] for arm in arms.values())
    assert arms["adamw"]["p_bytes"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_steps_are_timed_with_the_training_of_the_job(
    shared_client: TestClient, spec: SpecMaker, precision: str
) -> None:
    training = {"precision": precision, "warmup_steps": 5, "max_grad_norm": 1.0, "label_smoothing": 0.1}
    training |= {"class_weights": "balanced", "compile": True, "schedule": "cosine"}
    answer = shared_client.post(DRY, json=spec(training=training, resources={"gpus_per_trial": 1}))
    assert answer.status_code == 200, answer.text
    assert all(arm["seconds_a_run"] > 0 for arm in answer.json()["arms"])


@pytest.mark.slow
def test_seconds_of_an_arm_are_capped_as_its_search_is(shared_client: TestClient, spec: SpecMaker) -> None:
    budget = {"trials_per_arm": 10_000, "steps": 100_000, "max_seconds": 1.0}
    plan = shared_client.post(DRY, json=spec(budget=budget)).json()
    for arm in plan["arms"]:
        runs = 6 if arm["name"] == "adamw_default" else 6 + 4 + 3 + 2 + 6
        assert arm["seconds"] == pytest.approx(1.0 + runs * arm["seconds_a_run"])


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("max_seconds", "slots", "fit"),
    [(10.0, 1, (10, 10, 1)), (10.0, 2, (20, 20, 1)), (0.5, 1, (0, 0, 0)), (1.9, 2, (2, 2, 1)), (0.5, 2, (0, 0, 0))],
)
def test_a_limit_in_seconds_says_how_many_trials_fit(
    shared_client: TestClient,
    spec: SpecMaker,
    max_seconds: float,
    slots: int,
    fit: tuple[int, ...],
) -> None:
    def planned(limit: float) -> dict[str, Any]:
        budget = {"trials_per_arm": 40, "steps": 100, "max_seconds": limit}
        plan: dict[str, Any] = shared_client.post(DRY, json=spec(budget=budget, resources={"slots": slots})).json()
        return plan

    plan = planned(max_seconds)
    assert tuple(arm["trials_in_time"] for arm in plan["arms"]) == fit
    assert (plan["trials"], plan["trials_in_time"]) == (81, sum(fit))
    assert max(arm["search_seconds"] for arm in plan["arms"]) == pytest.approx(40 / slots)
    assert "those that are done before budget.max_seconds ends the search" in plan["note"]
    enough = planned(40.0)
    assert enough["trials_in_time"] == enough["trials"] == 81
    assert "max_seconds" not in enough["note"]


X = np.random.default_rng(0).normal(size=120).round(4)

LEAK = (
    "column 'fee' alone tells the target nearly perfectly: say ignore in dataset.columns unless it is known when the "
    "model is used"
)


def warnings_of(client: TestClient, spec: SpecMaker, table: dict[str, Any], **dataset: Any) -> list[str]:
    """Upload a table with two classes, the signs of X, and return what a dry run says about its rows."""
    rows = zip(*table.values(), ["low" if x < 0 else "high" for x in X], strict=False)
    content = "\n".join(",".join(map(str, row)) for row in [(*table, "y"), *rows])
    uploaded = client.post("/v1/datasets", params={"filename": "a.csv"}, content=content.encode()).json()
    plan = client.post(DRY, json=spec(dataset={"id": uploaded["id"], "target": "y", **dataset})).json()
    found: list[str] = plan["warnings"]
    return found


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("columns", "warning"),
    [
        ({"x": np.roll(X, 1), "fee": (X < 0).astype(int)}, LEAK),
        ({"x": np.roll(X, 1)[:60]}, "validation has 12 rows and test has 12: with so few, luck decides much"),
        ({"x": [-3.4e38, *np.roll(X, 1)[1:]]}, "the job would fail: column 'x' has -3.4e+38 in row 1"),
        ({"x": np.roll(X, 1)}, None),
    ],
    ids=["leak", "few rows", "extreme", "nothing"],
)
def test_a_dry_run_says_what_may_be_wrong_with_the_rows(
    shared_client: TestClient, spec: SpecMaker, columns: dict[str, Any], warning: str | None
) -> None:
    found = warnings_of(shared_client, spec, columns)
    assert len(found) == (warning is not None)
    assert warning is None or found[0].startswith(warning)


@pytest.mark.usefixtures("untimed")
def test_a_dry_run_says_that_there_was_no_time_to_look_at_the_rows(
    shared_client: TestClient, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "LOOKING_S", 0.001)
    (warning,) = warnings_of(shared_client, spec, {"x": X})
    assert warning == (
        "the rows were not checked, as that takes too much time or memory; the job may run in spite of that"
    )


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("name", "content", "body"),
    [
        ("digits.npz", files.digits_npz(), {}),
        ("digits.npz", files.digits_npz(), {"model": {"name": "autoencoder", "hidden": [8]}}),
        ("text.txt", b"a text of many words. " * 400, {"model": {"name": "transformer", "context": 16}}),
    ],
    ids=["arrays", "autoencoder", "text"],
)
def test_a_dry_run_has_no_warning_for_data_without_faults(
    shared_client: TestClient, spec: SpecMaker, name: str, content: bytes, body: dict[str, Any]
) -> None:
    dataset = shared_client.post("/v1/datasets", params={"filename": name}, content=content).json()
    plan = shared_client.post(DRY, json=spec(dataset={"id": dataset["id"]}, **body)).json()
    assert plan["warnings"] == []


@pytest.mark.usefixtures("untimed")
def test_rows_are_looked_at_once_for_one_choice_of_columns(
    shared_client: TestClient, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"x": np.roll(X, 3), "fee": (X < 0).astype(int)}
    assert warnings_of(shared_client, spec, columns) == [LEAK]
    monkeypatch.setattr(reader, "LOOKING_S", 0.001)
    assert warnings_of(shared_client, spec, columns) == [LEAK]
    (other,) = warnings_of(shared_client, spec, columns, columns={"x": "ignore"})
    assert other != LEAK


def test_a_spec_that_is_wrong_is_refused_as_it_would_be(shared_client: TestClient, spec: SpecMaker) -> None:
    assert_problem(shared_client.post(DRY, json=spec(dataset={"name": "mnist"})), 422, "invalid_spec")
    assert_problem(shared_client.post("/v1/jobs?dry_run=maybe", json=spec()), 422, "invalid_spec")


def test_figures_that_cannot_be_found_are_no_figures(
    shared_client: TestClient, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert_problem(shared_client.post(DRY, json=spec()), 503, "unavailable")
    monkeypatch.undo()
    monkeypatch.setattr(estimate_module, "TIMEOUT_S", 0.01)
    problem = assert_problem(shared_client.post(DRY, json=spec()), 503, "unavailable")
    assert "not timed within 0.01 seconds" in problem["detail"]


def test_the_processes_that_a_timed_one_has_started_end_with_it(
    shared_client: TestClient, spec: SpecMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/helper\nwait\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(estimate_module, "TIMEOUT_S", 5.0)
    assert_problem(shared_client.post(DRY, json=spec()), 503, "unavailable")
    assert not is_alive(int((tmp_path / "helper").read_text()))


def test_a_dry_run_waits_for_others_no_longer_than_it_may_take_itself(
    shared_client: TestClient, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate_module, "TIMEOUT_S", 0.01)
    with estimate_module._turns.take("", 60):
        document = assert_problem(shared_client.post(DRY, json=spec()), 503, "unavailable")
    assert "other jobs were timed" in document["detail"]


@pytest.mark.parametrize("name", BUNDLED)
def test_training_rows_are_those_of_the_split(name: str) -> None:
    assert BUNDLED[name].info.training_rows == len(split_of(name).x_train)


def test_a_misspelt_dry_run_queues_nothing(shared_client: TestClient, shared_db: Database, spec: SpecMaker) -> None:
    before = count_rows(shared_db)
    document = assert_problem(shared_client.post("/v1/jobs?dryrun=true", json=spec()), 422, "invalid_spec")
    (error,) = document["errors"]
    assert (error["field"], error["value"]) == ("dryrun", "true")
    assert "Did you mean 'dry_run'" in error["hint"]
    assert count_rows(shared_db) == before


def test_a_dry_run_whose_process_is_killed_says_so(
    shared_client: TestClient, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shot = tmp_path / "python"
    shot.write_text("#!/bin/sh\nkill -9 $$\n")
    shot.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shot))
    document = assert_problem(shared_client.post(DRY, json=spec()), 503, "unavailable")
    assert "killed by the signal 9" in document["detail"]
