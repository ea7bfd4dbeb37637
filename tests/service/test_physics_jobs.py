# A differential equation from a spec to a recommendation, all through REST; what does not fit together is refused.
from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from service.api.app import create_app
from service.cli.app import app
from service.db.session import Database
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import refused
from tests.service.conftest import WorkerMaker

pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

POISSON = {"name": "pinn", "equation": "poisson_2d"}


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


WRONG: dict[str, tuple[dict[str, Any], str, object, str]] = {
    "pinn on digits": (
        {"dataset": {"name": "digits"}, "model": POISSON},
        "model.name",
        "pinn",
        "must be one of mlp, autoencoder, convnet, resnet",
    ),
    "mlp on poisson": (
        {"dataset": {"name": "poisson_2d"}, "model": {"name": "mlp"}},
        "model.name",
        "mlp",
        "must be one of pinn for physics",
    ),
    "other equation": (
        {"dataset": {"name": "burgers"}, "model": POISSON},
        "model.equation",
        "poisson_2d",
        "burgers, as the dataset is",
    ),
    "no equation": ({"dataset": {"name": "burgers"}, "model": {"name": "pinn"}}, "model.equation", None, "required"),
    "a bend": (
        {"dataset": {"name": "poisson_2d"}, "model": POISSON | {"activation": "relu"}},
        "model.activation",
        "relu",
        "'tanh', 'gelu' or 'silu'",
    ),
    "score": (
        {"dataset": {"name": "poisson_2d"}, "model": POISSON, "objective": {"metric": "val_r2"}},
        "objective.metric",
        "val_r2",
        "must be one of val_loss, val_closeness for physics",
    ),
    "compile": (
        {"dataset": {"name": "poisson_2d"}, "model": POISSON, "training": {"compile": True}},
        "training.compile",
        True,
        "false with a pinn",
    ),
    "family": (
        {"dataset": {"name": "poisson_2d"}, "model": POISSON, "family": {"class_subsets": {}}},
        "model.name",
        "pinn",
        "mlp or autoencoder with a family",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_an_equation_is_refused(api: TestClient, db: Database, spec: SpecMaker, case: str) -> None:
    parts, field, value, expected = WRONG[case]
    errors = {error["field"]: error for error in refused(api, db, spec(**parts))}
    assert errors[field]["value"] == value
    assert expected in errors[field]["message"]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("equation", ["poisson_2d", "burgers"])
def test_an_equation_comes_to_a_recommendation(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker, tmp_path: Path, equation: str
) -> None:
    model = {"name": "pinn", "equation": equation, "hidden": [16, 16]}
    budget = {"trials_per_arm": 2, "steps": 60, "batch_size": 256}
    answer = api.post("/v1/jobs", json=spec(dataset={"name": equation}, model=model, budget=budget))
    assert answer.status_code == 202, answer.text
    links = answer.json()["links"]
    assert make_worker().run_next()
    job = api.get(links["self"]).json()
    assert job["state"] == "succeeded", job["cause"]
    result = api.get(links["recommendation"]).json()
    assert len(result["pairs"]) == 6
    assert all(pair["warpadam_test_loss"] is not None for pair in result["pairs"])
    (trial, *_) = api.get(links["trials"]).json()["items"]
    curve = api.get(f"{links['trials']}/{trial['number']}").json()["curve"]
    assert curve[-1]["val_loss"] < curve[0]["val_loss"]
    assert all(point["val_score"] < 1 for point in curve)

    script, bundle = tmp_path / "recommended.py", tmp_path / "job.zip"
    script.write_text(api.get(links["export"], params={"format": "python"}).text)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reached, recorded = (float(number) for number in re.findall(r"\d+\.\d+", done.stdout))
    assert reached == pytest.approx(recorded, abs=1e-6, rel=1e-6)
    bundle.write_bytes(api.get(links["export"], params={"format": "zip"}).content)
    replayed = CliRunner().invoke(app, ["replay", str(bundle)])
    assert replayed.exit_code == 0, replayed.output


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_dry_run_tells_what_an_equation_would_cost(api: TestClient, spec: SpecMaker) -> None:
    body = spec(dataset={"name": "poisson_2d"}, model=POISSON | {"hidden": [8]})
    answer = api.post("/v1/jobs", json=body, params={"dry_run": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["parameters"] == 2 * 8 + 8 + 8 + 1
