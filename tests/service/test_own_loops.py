# A training loop of the user's over REST: from the request to the answer and its exports; and what is refused.
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from torch import nn

from service.api.app import create_app
from service.db.session import Database
from service.engines.base import default_train
from service.export.replay import read_bundle, replay
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, count_rows
from tests.service.conftest import WorkerMaker
from tests.service.user_code import loops

pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

LOOP = f"{loops.__name__}:fit"

OWN = """
import torch

def train(make_optimizer, seed):
    model = torch.nn.Linear(2, 1)
    optimizer = make_optimizer(model)
    for step in range({steps}):
        optimizer.zero_grad()
        loss = model(torch.ones(3, 2)).square().mean()
        loss.backward()
        optimizer.step()
        yield loss.item()
"""


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the settings are read: the operator allows the loops of the tests."""
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", f"{loops.__name__},examples,own_training")


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


def job(spec: SpecMaker, entrypoint: str = LOOP, config: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    """A small job on a loop, without a dataset and with the steps of the loop."""
    model = {"name": "loop", "entrypoint": entrypoint, "config": config or {}}
    body = spec(**{"model": model, "budget": {"trials_per_arm": 2}, **parts})
    if "dataset" not in parts:
        del body["dataset"]
    if "steps" not in parts.get("budget", {}):
        body["budget"].pop("steps", None)
    return body


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a dataset": ({"dataset": {"name": "wine"}}, "dataset", "must be left out: a training loop has its own data"),
    "a schedule": ({"training": {"schedule": "cosine"}}, "training.schedule", 'must be "linear" with the model loop'),
    "a precision": ({"training": {"precision": "bfloat16"}}, "training.precision", "must be"),
    "a batch size": ({"budget": {"batch_size": 7}}, "budget.batch_size", "must be 128 with the model loop"),
    "more steps": ({"controls": ["adamw_more_steps"]}, "controls", "must not have adamw_more_steps"),
    "a score": ({"objective": {"metric": "val_f1"}}, "objective.metric", "must be one of val_loss, val_accuracy"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("allowed")
def test_what_a_loop_does_itself_is_refused(api: TestClient, db: Database, spec: SpecMaker) -> None:
    for parts, field, message in REFUSED.values():
        problem = assert_problem(api.post("/v1/jobs", json=job(spec, **parts)), 422, "invalid_spec")
        (wrong,) = problem["errors"]
        assert wrong["field"] == field
        assert message in wrong["message"]
    assert count_rows(db)["jobs"] == 0


@pytest.mark.parametrize("model", [{"name": "loop"}, {"entrypoint": "a:b"}, {}])
@pytest.mark.parametrize("field", ["pickle", "function"])
def test_a_pickled_function_is_never_accepted(
    api: TestClient, db: Database, spec: SpecMaker, model: dict[str, str], field: str
) -> None:
    body = spec(model={**model, field: "gASVJgAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOU"})
    (wrong,) = assert_problem(api.post("/v1/jobs", json=body), 422, "invalid_spec")["errors"]
    assert wrong["field"] == "model"
    assert f"must not have {field}: a pickled function is never accepted, because reading it runs code" in str(wrong)
    assert count_rows(db)["jobs"] == 0


def test_a_loop_that_is_not_allowed_is_forbidden(api: TestClient, spec: SpecMaker) -> None:
    problem = assert_problem(api.post("/v1/jobs", json=job(spec)), 403, "forbidden")
    assert "WARPTUNE_ALLOWED_MODULES is empty" in problem["detail"]


@pytest.mark.slow
@pytest.mark.usefixtures("allowed")
def test_a_loop_that_fails_is_an_error_of_its_entrypoint(api: TestClient, spec: SpecMaker) -> None:
    for name, reason in (("raises", "RuntimeError: no such table"), ("dies", "ended with exit code 7")):
        answer = api.post("/v1/jobs", json=job(spec, f"{loops.__name__}:{name}"))
        (wrong,) = assert_problem(answer, 422, "invalid_spec")["errors"]
        assert wrong["field"] == "model.entrypoint"
        assert reason in wrong["message"]


@pytest.mark.usefixtures("allowed")
def test_a_loop_that_prints_is_timed_like_another(api: TestClient, spec: SpecMaker) -> None:
    answer = api.post("/v1/jobs", json=job(spec, f"{loops.__name__}:prints"), params={"dry_run": True})
    assert answer.status_code == 200, answer.text
    assert all(arm["seconds_a_run"] > 0 for arm in answer.json()["arms"])


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("entrypoint", [LOOP, "examples.own_loop:train"])
def test_a_loop_comes_to_a_recommendation(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker, tmp_path: Path, entrypoint: str
) -> None:
    body = job(spec, entrypoint, objective={"metric": "val_accuracy"}, training={"patience": 1000})
    estimate = api.post("/v1/jobs", json=body, params={"dry_run": True}).json()
    steps = 200 if entrypoint != LOOP else 12
    assert estimate["steps"] == steps
    assert estimate["task"] == f"loop: {steps} steps, yields loss, accuracy"
    assert all(arm["seconds_a_run"] > 0 for arm in estimate["arms"])
    answer = api.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    links = answer.json()["links"]
    assert make_worker(default_train).run_next()
    found = api.get(links["self"]).json()
    assert found["state"] == "succeeded", found["cause"]
    assert (found["dataset"], found["spec"]["budget"]["steps"]) == (entrypoint, steps)
    result = api.get(links["recommendation"]).json()
    assert (len(result["pairs"]), result["part"], result["score"]) == (6, "validation", "accuracy")
    assert "the validation accuracy is" in result["reason"]
    assert "test" not in result["reason"] + result["summary"]
    assert api.get(f"/jobs/{found['id']}").status_code == 200
    assert b"validation accuracy" in api.get(links["report"]).content

    script: dict[str, Any] = {"__name__": "recommended"}
    exec(api.get(links["export"], params={"format": "python"}).text, script)
    optimizer = script["make_optimizer"](nn.Linear(2, 1))
    assert optimizer.param_groups[0]["lr"] == result["config"]["lr"]
    for form in ("json", "yaml", "toml"):
        assert api.get(links["export"], params={"format": form}).status_code == 200
    bundle = tmp_path / "job.zip"
    bundle.write_bytes(api.get(links["export"], params={"format": "zip"}).content)
    assert all(run.agrees for run in replay(read_bundle(bundle)))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("allowed")
def test_trials_are_pruned_and_a_loop_may_have_processes_of_its_own(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker
) -> None:
    worker = make_worker(default_train)
    loader = api.post("/v1/jobs", json=job(spec, f"{loops.__name__}:loads_in_processes")).json()["links"]["self"]
    search = {"sampler": "random", "pruner": "asha"}
    pruned = job(spec, config={"steps": 40, "every": 1}, budget={"trials_per_arm": 30}, search=search)
    many = api.post("/v1/jobs", json=pruned).json()["links"]["self"]
    assert worker.run_next()
    assert api.get(loader).json()["state"] == "succeeded", api.get(loader).json()["cause"]
    assert worker.run_next()
    arms = api.get(many).json()["arms"]
    assert sum(arm["trials"].get("pruned", 0) for arm in arms) > 0


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("allowed")
def test_a_job_after_a_change_of_the_code_uses_the_new_code(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder of WARPTUNE_CODE, with the same slots, and without a restart."""
    code = tmp_path / "code"
    code.mkdir()
    monkeypatch.setenv("WARPTUNE_CODE", str(code))
    worker, ids = make_worker(default_train), list[str]()
    for steps in (3, 5):
        (code / "own_training.py").write_text(OWN.format(steps=steps))
        answer = api.post("/v1/jobs", json=job(spec, "own_training:train"))
        assert answer.status_code == 202, answer.text
        assert worker.run_next()
        ids.append(answer.json()["id"])
        links = answer.json()["links"]
        assert api.get(links["self"]).json()["state"] == "succeeded", api.get(links["self"]).json()["cause"]
        trials = api.get(links["trials"]).json()["items"]
        assert {trial["last_step"] for trial in trials} == {steps}
    compared = api.get("/v1/jobs/compare", params={"ids": ",".join(ids)}).json()
    assert "what makes their data is not the same (the code of own_training:train)" in compared["summary"]
    assert str(code) not in sys.path
    missing = api.post("/v1/jobs", json=job(spec, "own_training.more:train"))
    (wrong,) = assert_problem(missing, 422, "invalid_spec")["errors"]
    assert str(code) in wrong["message"]
