# The recommended config as a file: plain data for other programs, the learned P, a script that trains with it, or all
# of it in a zip with sums. The script is made in script.py; a zip is read again in replay.py. Never pickle.
"""Exports of a recommendation."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from enum import StrEnum
from typing import IO, Any, Final

from service.artifacts import DATA_FILE, START_P_FILE, TASK_FILE, ArtifactStore
from service.db.models import Job, RecommendationRow
from service.errors import ConflictError, NotFoundError
from service.export.script import make_script, replayed_run, start_sha256, summary
from service.optimizers import OPTIMIZERS
from service.planning.plan import JobPlan, plan_of
from service.version import VERSION


class ExportFormat(StrEnum):
    """Form of an export."""

    JSON = "json"
    YAML = "yaml"
    TOML = "toml"
    PYTHON = "python"
    SAFETENSORS = "safetensors"
    ZIP = "zip"

    @property
    def suffix(self) -> str:
        """Ending of the file's name."""
        return "py" if self is ExportFormat.PYTHON else str(self)

    @property
    def media_type(self) -> str:
        """MIME type of the file."""
        return MEDIA_TYPES.get(self, f"application/{self}")


MEDIA_TYPES: Final = {ExportFormat.PYTHON: "text/x-python", ExportFormat.SAFETENSORS: "application/octet-stream"}

MANIFEST: Final = "manifest.json"
SCRIPT: Final = "recommended.py"
DOCUMENT: Final = "recommended.json"
P_FILE: Final = "p.safetensors"
START_FILE: Final = "start.safetensors"
"""Files of a zip; the prepared split is ``data.npz``."""

BUNDLE_FORMAT: Final = "warptune.job"
BUNDLE_VERSION: Final = 1
"""Grows when a reader of today could not understand the zip."""

MAX_UNPACKED_BYTES: Final = 64 << 20
"""Size up to which data is packed, to see whether it fits into a script; larger data hardly shrinks to a sixteenth."""

PIECE_BYTES: Final = 1 << 20
"""Bytes of the data that are in memory at once."""

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""Time of every file in a zip, so that equal content gives equal bytes."""


def write(job: Job, row: RecommendationRow, fmt: ExportFormat, artifacts: ArtifactStore, target: IO[bytes]) -> None:
    """Write an export to a file that can be sought in; the data, which may be large, goes there piece by piece.

    Args:
        job: The job.
        row: Its recommendation.
        fmt: Form of the file.
        artifacts: Has the prepared split and the learned P.
        target: Where to write.

    Raises:
        NotFoundError: The recommendation has no learned P (``safetensors``), or the prepared split is gone (``zip``).
        ConflictError: A script or a zip of a job on a family of tasks that recommends no learned P.
    """
    plan = plan_of(job.spec, job.dataset_info)
    if fmt in (ExportFormat.PYTHON, ExportFormat.ZIP) and plan.spec.family and not _one_task(row):
        raise ConflictError(
            f"a job on a family of tasks has a script where it recommends a P, and this one recommends {row.arm}; "
            "json, yaml and toml have its config"
        )
    match fmt:
        case ExportFormat.PYTHON:
            target.write(make_script(plan, row, *_small_data(job, row, artifacts)).encode())
        case ExportFormat.SAFETENSORS:
            target.write(_learned_p(row, artifacts))
        case ExportFormat.ZIP:
            _bundle(job, plan, row, artifacts, target)
        case _:
            target.write(_text(_document(job, plan, row), fmt).encode())


def _small_data(job: Job, row: RecommendationRow, artifacts: ArtifactStore) -> tuple[str | None, bytes | None]:
    """Return the hash of the prepared split, and the split if it may fit into a script."""
    name, digest = _data(job, row)
    size = artifacts.size_bytes(job.id, name)
    return digest, None if size is None or size > MAX_UNPACKED_BYTES else artifacts.get(job.id, name)


def _text(document: dict[str, Any], fmt: ExportFormat) -> str:
    if fmt is ExportFormat.YAML:
        import yaml

        return str(yaml.safe_dump(document, sort_keys=False))
    if fmt is ExportFormat.TOML:
        import tomli_w

        return tomli_w.dumps(_without_none(document))
    return json.dumps(document, indent=2) + "\n"


def _without_none(value: Any) -> Any:
    """Leave out fields without a value, which TOML cannot say."""
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _document(job: Job, plan: JobPlan, row: RecommendationRow) -> dict[str, Any]:
    return {
        "job": job.id,
        "name": job.name,
        "verdict": row.verdict,
        "reason": row.data["reason"],
        "optimizer": OPTIMIZERS[plan.arm(row.arm).optimizer].library,
        "config": row.data["config"],
        "trial": row.data["trial"],
        "statistics": row.data["statistics"],
        "spec": job.spec,
        "data_sha256": job.data_sha256,
        "warptune": VERSION,
    }


def _one_task(row: RecommendationRow) -> str | None:
    """Return the hash of the split of one task of a family, which the run from the learned P trained on."""
    digest: str | None = (row.data.get("learned_p") or {}).get("data_sha256")
    return digest


def _data(job: Job, row: RecommendationRow) -> tuple[str, str | None]:
    """Return the file of the split that the exported runs train on, and its hash."""
    digest = _one_task(row)
    return (TASK_FILE, digest) if digest else (DATA_FILE, job.data_sha256)


def _start_p(job: Job, digest: str, artifacts: ArtifactStore) -> bytes:
    """Return the P that the recorded run started from."""
    content = artifacts.get(job.id, START_P_FILE)
    if content is None or hashlib.sha256(content).hexdigest() != digest:
        raise NotFoundError(f"the P that job {job.id} started from is not in the artifact store any more")
    return content


def _learned_p(row: RecommendationRow, artifacts: ArtifactStore) -> bytes:
    """Return the learned P, the very file that the run from it was recorded with."""
    learned = row.data.get("learned_p")
    if learned is None:
        raise NotFoundError(f"job {row.job_id} recommends {row.arm}, which has no learned P to export")
    content = artifacts.get(row.job_id, learned["file"])
    if content is None or hashlib.sha256(content).hexdigest() != learned["sha256"]:
        raise NotFoundError(f"the learned P of job {row.job_id} is not in the artifact store any more")
    return content


def _bundle(job: Job, plan: JobPlan, row: RecommendationRow, artifacts: ArtifactStore, target: IO[bytes]) -> None:
    learned = row.data.get("learned_p")
    name, digest = _data(job, row)
    if _sha256(job, name, artifacts) != digest:
        raise NotFoundError(f"the prepared data of job {job.id} is not in the artifact store any more")
    files = {
        SCRIPT: make_script(plan, row, digest, None).encode(),
        DOCUMENT: _text(_document(job, plan, row), ExportFormat.JSON).encode(),
    }
    if learned is not None:
        files[P_FILE] = _learned_p(row, artifacts)
    if start := start_sha256(plan, row):
        files[START_FILE] = _start_p(job, start, artifacts)
    run = replayed_run(plan, row)
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    manifest = {
        "format": BUNDLE_FORMAT,
        "format_version": BUNDLE_VERSION,
        "job": job.id,
        "name": job.name,
        "arm": row.arm,
        "files": {**sums, DATA_FILE: digest},
        "versions": row.data.get("made_with", {"warptune": VERSION}),
        "seeds": {"job": plan.spec.seed, "confirm": [pair["seed"] for pair in row.data["pairs"]]},
        "data_sha256": digest,
        "run": summary(plan, row),
        "expected": {"seed": run.seed, "test_loss": run.test_loss},
        "expected_from_p": learned and {"seed": learned["seed"], "test_loss": learned["test_loss"]},
        "spec": job.spec,
        "user_code": dict(plan.info.sources),
    }
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in {MANIFEST: json.dumps(manifest, indent=2).encode(), **files}.items():
            archive.writestr(zipfile.ZipInfo(file, EPOCH), content, zipfile.ZIP_DEFLATED)
        entry = zipfile.ZipInfo(DATA_FILE, EPOCH)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with artifacts.open(job.id, name) as data, archive.open(entry, "w", force_zip64=True) as packed:
            shutil.copyfileobj(data, packed, PIECE_BYTES)


def _sha256(job: Job, name: str, artifacts: ArtifactStore) -> str | None:
    try:
        with artifacts.open(job.id, name) as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except FileNotFoundError:
        return None
