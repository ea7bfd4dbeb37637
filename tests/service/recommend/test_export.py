from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from service.db.models import Job, RecommendationRow
from service.artifacts import ArtifactStore
from service.db.session import Database
from service.ledger import jobs
from service.recommend.export import ExportFormat, render
from tests.service.conftest import Submit, WorkerMaker
from warpadam import WarpAdamConfig

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# Forced outcomes, so that both optimizers are exported: an lr that cannot learn, and min_effect 0 with one that can.
JOBS: dict[str, dict[str, Any]] = {
    "adamw": {
        "search_space": {"preset": "quick", "overrides": {"lr": 1e-9}},
        "budget": {"trials_per_arm": 3, "steps": 40, "batch_size": 32},
    },
    "warpadam": {
        "dataset": {"name": "digits"},
        "model": {"name": "autoencoder", "hidden": [16], "code": 8},
        "budget": {"trials_per_arm": 1, "steps": 60, "batch_size": 128},
    },
    "regression": {
        "dataset": {"name": "diabetes"},
        "model": {"name": "mlp", "hidden": [8], "activation": "silu"},
        "training": {"schedule": "constant"},
    },
}


def finished_job(db: Database, job_id: str) -> tuple[Job, RecommendationRow]:
    with db.read() as session:
        return jobs.require_job(session, job_id), session.get_one(RecommendationRow, job_id)


@pytest.mark.parametrize("name", JOBS)
def test_every_export_of_a_real_job_says_the_same_and_the_script_reaches_the_recorded_loss(
    db: Database, submit: Submit, make_worker: WorkerMaker, tmp_path: Path, name: str
) -> None:
    job_id = submit(**JOBS[name])
    make_worker().run_next()
    job, row = finished_job(db, job_id)
    store = ArtifactStore(str(tmp_path / "artifacts"))
    if name != "regression":
        assert row.arm == name

    document = json.loads(render(job, row, ExportFormat.JSON, store))
    assert yaml.safe_load(render(job, row, ExportFormat.YAML, store)) == document
    assert document["config"] == row.data["config"]
    assert document["spec"] == job.spec
    if row.arm == "warpadam":
        assert WarpAdamConfig.from_dict(document["config"]).to_dict() == document["config"]
    else:
        torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], **document["config"])

    script = tmp_path / "recommended.py"
    script.write_bytes(render(job, row, ExportFormat.PYTHON, store))
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=tmp_path)
    found = re.search(r"test loss ([\d.]+), recorded ([\d.]+)", printed.stdout)
    assert found, printed.stdout
    role = "warpadam" if row.arm == "warpadam" else "baseline"
    assert float(found[2]) == pytest.approx(row.data["pairs"][0][role], abs=1e-8)
    assert float(found[1]) == pytest.approx(float(found[2]), abs=1e-6)
