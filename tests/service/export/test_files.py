# Real jobs, exported in every form; what can be run is run in a process that has the base install only, and must reach
# the loss that was recorded.
from __future__ import annotations

import hashlib
import io
import json
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from service.artifacts import DATA_FILE, ArtifactStore
from service.cli.app import app
from service.db.models import Job
from service.db.session import Database
from service.errors import NotFoundError
from service.export.files import ExportFormat, write
from service.ledger import jobs, queries
from service.result.job_result import JobResult
from tests.bare_install import run_bare
from tests.service.conftest import Submit, WorkerMaker
from warpadam import WarpAdamConfig

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SEARCH = {"preset": "quick"}
BAD_LR = {"preset": "quick", "overrides": {"lr": 1e-9}}
ONE_TRIAL = {"trials_per_arm": 1, "steps": 60, "batch_size": 128}
DIGITS = {"name": "digits"}

# Outcomes are forced: one that cannot learn, and min_effect 0 with first trials of which P's is known to be better.
JOBS: dict[str, dict[str, Any]] = {
    "baseline": {"search_space": BAD_LR, "budget": {"trials_per_arm": 3, "steps": 40, "batch_size": 32}},
    "autoencoder": {
        "dataset": DIGITS,
        "model": {"name": "autoencoder", "hidden": [16], "code": 8},
        "budget": ONE_TRIAL,
    },
    "classifier": {
        "dataset": DIGITS,
        "model": {"name": "mlp", "hidden": [32]},
        "budget": ONE_TRIAL,
        "confirm": {"seeds": 6, "min_effect": 0.0},
    },
    "muon": {
        "dataset": {"name": "diabetes"},
        "model": {"name": "mlp", "hidden": [8], "activation": "silu"},
        "training": {"schedule": "constant"},
        "search_space": BAD_LR,
        "baselines": ["muon"],
    },
    "every option": {
        "dataset": DIGITS,
        "model": {"name": "mlp", "hidden": [32]},
        "training": {
            "schedule": "cosine",
            "warmup_steps": 9,
            "max_grad_norm": 0.5,
            "label_smoothing": 0.1,
            "class_weights": "balanced",
            "last_batch": "keep",
        },
        "budget": ONE_TRIAL,
        "confirm": {"seeds": 6, "min_effect": 0.0},
    },
    "bfloat16": {
        "training": {"precision": "bfloat16", "warmup_steps": 2},
        "search_space": BAD_LR,
        "budget": {"trials_per_arm": 3, "steps": 40, "batch_size": 32},
    },
    "compiled": {
        "training": {"compile": True, "last_batch": "keep"},
        "search_space": BAD_LR,
        "budget": {"trials_per_arm": 1, "steps": 40, "batch_size": 32},
    },
    "accuracy": {  # many points are equally accurate, so the loss decides which one is tested
        "objective": {"metric": "val_accuracy"},
        "search_space": BAD_LR,
        "budget": {"trials_per_arm": 3, "steps": 100, "batch_size": 32},
    },
    "soap": {"search_space": BAD_LR, "baselines": ["soap"]},
    "sgd": {"search_space": BAD_LR, "baselines": ["sgd"]},
}
RECOMMENDED = {
    "baseline": "adamw",
    "autoencoder": "warpadam",
    "classifier": "warpadam",
    "every option": "warpadam",
    "bfloat16": "adamw",
    "compiled": "adamw",
    "accuracy": "adamw",
}


def run_script(script: Path) -> list[tuple[float, float]]:
    """Run a script as a program, without the service; return each loss with the one beside it."""
    done = run_bare(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", ours=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.findall(r"test loss ([\d.]+), recorded ([\d.]+)$", done.stdout, re.MULTILINE)
    return [(float(got), float(recorded)) for got, recorded in found]


def render(job: Job, result: JobResult, fmt: ExportFormat, store: ArtifactStore) -> bytes:
    """Return the content of an export."""
    buffer = io.BytesIO()
    write(job, result, fmt, store, buffer)
    return buffer.getvalue()


def check_data(job: Job, result: JobResult, store: ArtifactStore) -> None:
    document = json.loads(render(job, result, ExportFormat.JSON, store))
    assert yaml.safe_load(render(job, result, ExportFormat.YAML, store)) == document
    from_toml = tomllib.loads(render(job, result, ExportFormat.TOML, store).decode())
    assert {name: from_toml[name] for name in ("config", "job", "trial")} == {
        name: document[name] for name in ("config", "job", "trial")
    }
    assert (document["config"], document["spec"]) == (result.config, job.spec)
    if result.arm == "warpadam":
        assert WarpAdamConfig.from_dict(document["config"]).to_dict() == document["config"]
    elif result.arm == "adamw":
        torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], **document["config"])


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", JOBS)
def test_every_export_of_a_real_job_runs_and_reaches_the_recorded_loss(
    db: Database, submit: Submit, make_worker: WorkerMaker, tmp_path: Path, name: str
) -> None:
    job_id = submit(**JOBS[name])
    make_worker().run_next()
    with db.read() as session:
        job = jobs.require_job(session, job_id)
        result = queries.result(session, job)
    store = ArtifactStore(str(tmp_path / "artifacts"))
    assert result.arm == RECOMMENDED.get(name, name)
    check_data(job, result, store)
    first = result.pairs[0]
    recorded = pytest.approx(
        first.warpadam_test_loss if result.arm == "warpadam" else first.baseline_test_loss, abs=1e-8
    )

    alone = tmp_path / "alone" / "recommended.py"
    alone.parent.mkdir()
    alone.write_bytes(render(job, result, ExportFormat.PYTHON, store))
    ((got, beside),) = run_script(alone)
    assert beside == recorded
    assert got == pytest.approx(beside, abs=1e-6)

    learned = result.learned_p
    if result.arm == "warpadam":
        assert learned is not None
        assert first.warpadam_test_loss is not None
        content = render(job, result, ExportFormat.SAFETENSORS, store)
        assert hashlib.sha256(content).hexdigest() == learned.sha256
        (alone.parent / "p.safetensors").write_bytes(content)
        _, (got, beside) = run_script(alone)
        assert beside == pytest.approx(learned.test_loss, abs=1e-8)
        assert got == pytest.approx(beside, abs=1e-6)
        assert abs(got - first.warpadam_test_loss) > 1e-4, "P was not used"
    else:
        assert learned is None
        with pytest.raises(NotFoundError, match=rf"recommends {result.arm}, which has no learned P"):
            render(job, result, ExportFormat.SAFETENSORS, store)

    check_zip(job, result, store, tmp_path / "job.zip")


def check_zip(job: Job, result: JobResult, store: ArtifactStore, path: Path) -> None:
    """Run the script of the zip, replay the zip, then spoil it."""
    path.write_bytes(render(job, result, ExportFormat.ZIP, store))
    runs = 2 if result.learned_p else 1
    with zipfile.ZipFile(path) as archive:
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o644}
        archive.extractall(path.parent / "unpacked")
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["data_sha256"] == manifest["files"][DATA_FILE] == job.data_sha256
    assert manifest["spec"] == job.spec
    assert {"torch", "numpy", "python", "warptune"} <= manifest["versions"].keys()
    losses = run_script(path.parent / "unpacked" / "recommended.py")
    assert len(losses) == runs
    assert all(got == pytest.approx(recorded, abs=1e-6) for got, recorded in losses)
    replayed = CliRunner().invoke(app, ["replay", str(path)])
    assert replayed.exit_code == 0, replayed.output
    assert replayed.stdout.count("test loss") == runs
    assert replayed.stdout.endswith("replayed: the losses agree\n")
    spoil(path, manifest)


def spoil(path: Path, manifest: dict[str, Any]) -> None:
    """Change what the zip expects, sums kept right: the replay must tell."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest["expected"]["test_loss"] += 1e-3
    files["manifest.json"] = json.dumps(manifest).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    path.write_bytes(buffer.getvalue())
    replayed = CliRunner().invoke(app, ["replay", str(path)])
    assert replayed.exit_code == 1
    assert "the losses differ by more than 1e-06; no version differs" in replayed.stderr
