# From a user's own model and dataset to a recommendation, all through REST, with a real worker and real slot processes;
# and what happens where the operator has not allowed them, or not any more.
from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.db.session import Database
from service.engines.base import default_train
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, count_rows
from tests.service.conftest import WorkerMaker
from tests.service.data import files

pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

MODEL = "examples.gated_mlp:make_model"
DATA = "examples.friedman:make_dataset"
LOOP = "examples.own_loop:train"
ROOT = Path(__file__).parent.parent.parent

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "model": ({"name": "digits"}, {"entrypoint": MODEL, "config": {"width": 16}}),
    "dataset": ({"entrypoint": DATA, "config": {"rows": 200}}, {"name": "mlp", "hidden": [8]}),
    "both": ({"entrypoint": DATA}, {"name": "entrypoint", "entrypoint": MODEL, "config": {"width": 8, "blocks": 1}}),
}


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the settings are read: the operator allows the examples."""
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", "examples")


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dry_run", [False, True])
def test_user_code_is_forbidden_unless_the_operator_allows_it(
    api: TestClient, db: Database, spec: SpecMaker, case: str, dry_run: bool
) -> None:
    dataset, model = CASES[case]
    before = count_rows(db)
    answer = api.post("/v1/jobs", json=spec(dataset=dataset, model=model), params={"dry_run": dry_run})
    problem = assert_problem(answer, 403, "forbidden")
    assert "WARPTUNE_ALLOWED_MODULES is empty" in problem["detail"]
    assert count_rows(db) == before


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("case", [*CASES, "upload"])
def test_user_code_comes_to_a_recommendation(
    api: TestClient,
    make_worker: WorkerMaker,
    spec: SpecMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    dataset, model = CASES.get(case) or (uploaded_images(api), CASES["model"][1])
    for name in ("examples.friedman", "examples.gated_mlp"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    answer = api.post("/v1/jobs", json=spec(dataset=dataset, model=model))
    assert answer.status_code == 202, answer.text
    links = answer.json()["links"]
    assert make_worker(default_train).run_next()
    job = api.get(links["self"]).json()
    assert job["state"] == "succeeded", job["cause"]
    assert job["dataset"] == (dataset.get("name") or dataset.get("id") or DATA)
    result = api.get(links["recommendation"]).json()
    assert len(result["pairs"]) == 6
    assert all(pair["warpadam_test_loss"] is not None for pair in result["pairs"])
    assert not {"examples.friedman", "examples.gated_mlp"} & set(sys.modules)

    script = tmp_path / "recommended.py"
    script.write_text(api.get(links["export"], params={"format": "python"}).text)
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run([sys.executable, "-P", str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    reached, recorded = (float(number) for number in re.findall(r"\d+\.\d+", done.stdout))
    assert reached == pytest.approx(recorded, abs=1e-6)
    if case != "dataset":
        head = script.read_text().partition('"""\n')[0]
        assert "imports your own module examples.gated_mlp, which is not in here" in head.replace("\n", " ")

    bundle = tmp_path / "job.zip"
    bundle.write_bytes(api.get(links["export"], params={"format": "zip"}).content)
    with zipfile.ZipFile(io.BytesIO(bundle.read_bytes())) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    named = [part["entrypoint"] for part in (dataset, model) if "entrypoint" in part]
    assert sorted(manifest["user_code"]) == sorted(named)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in manifest["user_code"].values())
    check_replay(bundle, forbidden=case != "dataset")


def uploaded_images(api: TestClient) -> dict[str, Any]:
    answer = api.post("/v1/datasets", params={"filename": "digits.npz"}, content=files.digits_npz())
    assert answer.status_code == 201, answer.text
    return {"id": answer.json()["id"]}


def check_replay(bundle: Path, *, forbidden: bool) -> None:
    """Replay a zip with and without the operator's leave, each in a process of its own."""
    command = [sys.executable, "-m", "service", "replay", str(bundle)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**environment, "WARPTUNE_ALLOWED_MODULES": "examples"}
    )
    assert done.stdout.endswith("replayed: the losses agree\n"), done.stderr
    if forbidden:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 1
        assert "the operator's setting WARPTUNE_ALLOWED_MODULES is empty" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("case", ["model", "dataset"])
def test_a_stored_job_whose_code_is_not_allowed_any_more_fails_and_the_worker_goes_on(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    dataset, model = CASES[case]
    first = api.post("/v1/jobs", json=spec(dataset=dataset, model=model)).json()["links"]["self"]
    second = api.post("/v1/jobs", json=spec(budget={"trials_per_arm": 1, "steps": 2})).json()["links"]["self"]
    monkeypatch.delenv("WARPTUNE_ALLOWED_MODULES")
    worker = make_worker(default_train)
    monkeypatch.setattr(worker._tools.user_code, "_settings", Settings())
    assert worker.run_next()
    job = api.get(first).json()
    assert job["state"] == "failed"
    assert "the operator's setting WARPTUNE_ALLOWED_MODULES is empty" in job["cause"]
    assert worker.run_next()
    assert api.get(second).json()["state"] == "succeeded"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("allowed")
def test_a_dry_run_tells_what_user_code_would_cost(api: TestClient, spec: SpecMaker) -> None:
    body = spec(model={"entrypoint": MODEL, "config": {"width": 16}})
    answer = api.post("/v1/jobs", json=body, params={"dry_run": True})
    assert answer.status_code == 200, answer.text
    estimate = answer.json()
    assert estimate["parameters"] == 13 * 16 + 16 + 2 * (2 * 16 + 16 * 64 + 64 + 32 * 16 + 16) + 16 * 3 + 3
    assert estimate["p_bytes"] > 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("loop", [False, True])
def test_user_code_runs_in_the_actors_of_ray(api: TestClient, spec: SpecMaker, settings: Settings, loop: bool) -> None:
    model = {"name": "loop", "entrypoint": LOOP} if loop else {"entrypoint": MODEL}
    body = spec(model=model, engine={"name": "ray"}, budget={"trials_per_arm": 1, "steps": 5})
    if loop:
        del body["dataset"]
    job = api.post("/v1/jobs", json=body).json()["links"]["self"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "WARPTUNE_DATABASE_URL": settings.database_url,
        "WARPTUNE_ARTIFACTS_URL": settings.artifacts_url,
    }
    command = [sys.executable, "-m", "service", "worker", "--with-parent"]
    worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE)
    try:
        while api.get(job).json()["state"] not in ("succeeded", "failed"):
            assert worker.poll() is None
            time.sleep(0.5)
    finally:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
    assert api.get(job).json()["state"] == "succeeded", api.get(job).json()["cause"]
