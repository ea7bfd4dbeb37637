# Warm starts from POST to recommendation: P is learned on a family of digits, and a job on one task starts from it.
from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from service.api.app import create_app
from service.artifacts import ArtifactStore
from service.cli.app import app
from service.db.session import Database
from service.settings import Settings
from service.submission.warm_start import describe_p
from tests.conftest import SpecMaker
from tests.service.conftest import WorkerMaker, get_job
from tests.service.data import files
from tests.service.export.test_files import run_script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]

MODEL = {"name": "mlp", "hidden": [64, 64]}
SPACE: dict[str, Any] = {
    "preset": "quick",
    "overrides": {"structure": "kronecker", "learner": "rotation", "beta1": 0.8, "beta2": 0.95, "lr": [0.01, 0.006]},
}
P_KNOBS = {"p_lr": 0.003, "meta_every": 1}


@pytest.fixture
def client(settings: Settings, db: Database) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


def run_job(client: TestClient, db: Database, make_worker: WorkerMaker, body: dict[str, Any]) -> dict[str, Any]:
    """Post a job, run it, and return its recommendation."""
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    assert make_worker().run_next()
    assert get_job(db, job_id).cause is None
    found: dict[str, Any] = client.get(f"/v1/jobs/{job_id}/recommendation").json()
    return found


def check_exports(client: TestClient, job_id: str, folder: Path, recorded: list[float]) -> None:
    """Run the script of the zip without the service, replay the zip, and run the script that stands alone."""
    folder.mkdir()
    for fmt in ("zip", "python"):
        answer = client.get(f"/v1/jobs/{job_id}/export", params={"format": fmt})
        assert answer.status_code == 200, answer.text
        (folder / f"export.{fmt}").write_bytes(answer.content)
    with zipfile.ZipFile(folder / "export.zip") as archive:
        archive.extractall(folder / "unpacked")
    losses = run_script(folder / "unpacked" / "recommended.py")
    assert [beside for _, beside in losses] == pytest.approx(recorded, abs=1e-8)
    assert [got for got, _ in losses] == pytest.approx(recorded, abs=1e-6)
    replayed = CliRunner().invoke(app, ["replay", str(folder / "export.zip")])
    assert replayed.exit_code == 0, replayed.output
    assert replayed.stdout.count("recorded") == len(recorded)
    alone = folder / "alone" / "recommended.py"
    alone.parent.mkdir()
    alone.write_bytes((folder / "export.python").read_bytes())
    assert run_script(alone) == []  # what it would repeat starts from a P that is not here


def five_digits() -> bytes:
    """Images of five of the digits, as a user would have them."""
    bunch = load_digits()
    rows = np.isin(bunch.target, [1, 3, 5, 7, 9])
    return files.npz(x=bunch.images[rows].astype(np.uint8), y=bunch.target[rows])


def test_a_job_starts_from_the_p_of_a_family_and_tells_transfer_from_its_control(
    client: TestClient, db: Database, make_worker: WorkerMaker, spec: SpecMaker, settings: Settings, tmp_path: Path
) -> None:
    family = spec(
        dataset={"name": "digits"},
        model=MODEL,
        family={"class_subsets": {"ways": 5}, "learn_tasks": 10, "learn_steps": 50, "evaluate_tasks": 5},
        search_space={**SPACE, "overrides": SPACE["overrides"] | P_KNOBS},
        budget={"trials_per_arm": 2, "steps": 20, "batch_size": 32},
    )
    source = run_job(client, db, make_worker, family)
    assert (source["verdict"], source["arm"]) == ("helps", "warpadam"), source["reason"]
    exported = client.get(f"/v1/jobs/{source['job_id']}/export", params={"format": "safetensors"})
    assert exported.status_code == 200
    learned = source["learned_p"]
    assert hashlib.sha256(exported.content).hexdigest() == learned["sha256"]
    assert describe_p(exported.content)["config"]["learner"] == "rotation"
    assert learned["test_loss"] < source["pairs"][0]["baseline_test_loss"]

    check_exports(client, source["job_id"], tmp_path / "family", [learned["test_loss"]])
    uploaded = client.post("/v1/datasets", params={"filename": "five.npz"}, content=five_digits()).json()
    body = spec(
        dataset={"id": uploaded["id"]},
        model=MODEL,
        warm_start={"job": source["job_id"]},
        search_space={"preset": "quick", "overrides": {"beta1": 0.8, "beta2": 0.95, "lr": [0.01, 0.006]} | P_KNOBS},
        budget={"trials_per_arm": 2, "steps": 20, "batch_size": 32},
        confirm={"seeds": 10},
    )
    planned = client.post("/v1/jobs", params={"dry_run": True}, json=body).json()
    assert [arm["name"] for arm in planned["arms"]] == ["warpadam", "adamw", "shuffled_p", "adamw_default"]
    assert f"starts from the P of {source['job_id']}" in planned["note"]
    assert "learner rotation" in planned["note"]
    queued = client.post("/v1/jobs", json=body).json()
    assert queued["spec"]["warm_start"] == {"job": source["job_id"], "sha256": learned["sha256"]}
    assert client.delete(f"/v1/jobs/{source['job_id']}").status_code == 204  # the queued job has its own copy
    assert make_worker().run_next()
    job = client.get(queued["links"]["self"]).json()
    assert job["state"] == "succeeded", job["cause"]
    trials = client.get(queued["links"]["trials"]).json()["items"]
    assert {trial["arm"]: trial["state"] for trial in trials} == dict.fromkeys(
        ["warpadam", "adamw", "shuffled_p", "adamw_default"], "complete"
    )
    values = {arm: {trial["value"] for trial in trials if trial["arm"] == arm} for arm in ("warpadam", "shuffled_p")}
    assert not values["warpadam"] & values["shuffled_p"]
    found = client.get(queued["links"]["recommendation"]).json()
    warm = found["warm_start"]
    print(found["reason"], warm, [(f["arm"], f["mean_test_loss"]) for f in found["finalists"]])
    assert (warm["job"], warm["sha256"]) == (source["job_id"], learned["sha256"])
    (against,) = (item for item in found["findings"]["comparisons"] if item["against"] == "shuffled_p")
    assert against["metric"] == "test_loss"
    assert against["arm"] == "warpadam"
    assert against["pairs"] == 10
    assert warm["transfer"] == (against["improvement"] > 0 and against["p_holm"] <= 0.05)
    assert ("no transfer shown" in warm["reason"]) == (not warm["transfer"])
    assert found["arm"] == "warpadam", found["reason"]
    recorded = [found["pairs"][0]["warpadam_test_loss"], found["learned_p"]["test_loss"]]
    check_exports(client, queued["id"], tmp_path / "warm", recorded)
    report = client.get(queued["links"]["report"])
    assert report.status_code == 200
    assert warm["reason"][1:] in report.text  # it begins with a capital letter there
    copy = ArtifactStore(settings.artifacts_url).get(queued["id"], "start-p.safetensors")
    assert copy == exported.content


def machines(first: int, count: int) -> bytes:
    """Made readings of 24 sensors, of which three tell the wear of a machine, each machine in its own way."""
    rng = np.random.default_rng(first)
    lines = [",".join([*(f"sensor_{index}" for index in range(24)), "machine", "wear"])]
    for machine in range(first, first + count):
        tells = rng.normal(size=3) + np.array([2.0, -2.0, 2.0]) * rng.choice([-1.0, 1.0])
        readings = rng.normal(size=(60, 24))
        wear = readings[:, :3] @ tells + 0.1 * rng.normal(size=60)
        for row, value in zip(readings, wear, strict=True):
            lines.append(",".join([*(f"{reading:.5f}" for reading in row), str(machine), f"{value:.5f}"]))
    return "\n".join(lines).encode()


def test_a_p_that_knows_which_columns_matter_transfers_to_the_next_machine(
    client: TestClient, db: Database, make_worker: WorkerMaker, spec: SpecMaker
) -> None:
    overrides = {"structure": "kronecker", "learner": "hypergradient", "lr": 0.01, "p_lr": 0.01, "meta_every": 1}
    shared = {
        "model": {"name": "mlp", "hidden": [16]},
        "budget": {"trials_per_arm": 2, "steps": 30, "batch_size": 32},
    }

    def dataset(name: str, content: bytes) -> dict[str, str]:
        answer = client.post("/v1/datasets", params={"filename": name}, content=content)
        assert answer.status_code == 201, answer.text
        return {"id": answer.json()["id"], "target": "wear"}

    body = spec(
        dataset=dataset("machines.csv", machines(0, 16)),
        family={"group_by": "machine", "learn_tasks": 20, "learn_steps": 50, "evaluate_tasks": 3},
        search_space={"preset": "default", "overrides": overrides},
        **shared,
    )
    source = run_job(client, db, make_worker, body)
    assert source["verdict"] == "helps", source["reason"]
    assert source["findings"]["family"]["break_even"]["tasks_in_steps"] is not None

    body = spec(
        dataset=dataset("next.csv", machines(100, 1)),
        warm_start={"job": source["job_id"]},
        search_space={"preset": "default", "overrides": overrides},
        confirm={"seeds": 10},
        **shared,
    )
    found = run_job(client, db, make_worker, body)
    print(found["reason"], found["warm_start"], [(f["arm"], f["mean_test_loss"]) for f in found["finalists"]])
    assert found["verdict"] == "helps", found["reason"]
    assert found["warm_start"]["transfer"] is True, found["warm_start"]["reason"]
    assert found["warm_start"]["reason"].startswith("transfer: from the P of")
