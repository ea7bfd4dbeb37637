"""The recommended config as a file: plain data, the learned P, a script that trains with it, or a zip with all of it.

No format uses pickle. ``replay.py`` reads the zip again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from enum import StrEnum
from typing import IO, Final

from pydantic import JsonValue

from service.artifacts import DATA_FILE, PREPROCESSING_FILE, START_P_FILE, TASK_FILE, ArtifactStore
from service.db.models import Job
from service.errors import ConflictError, NotFoundError
from service.export.script import make_predict_script, make_script, replayed_run, start_sha256, summary
from service.optimizers import OPTIMIZERS
from service.planning.plan import JobPlan, plan_of
from service.result.job_result import JobResult
from service.spec.job import JobSpec
from service.version import VERSION

MANIFEST: Final = "manifest.json"
SCRIPT: Final = "recommended.py"
DOCUMENT: Final = "recommended.json"
P_FILE: Final = "p.safetensors"
START_FILE: Final = "start.safetensors"
WEIGHTS_FILE: Final = "weights.safetensors"
PREDICT_SCRIPT: Final = "predict.py"
"""Files of a zip; the prepared data is ``data.npz``."""

BUNDLE_FORMAT: Final = "warptune.job"
BUNDLE_VERSION: Final = 1
"""Grows when today's reader could not understand the zip."""

PIECE_BYTES: Final = 1 << 20
"""Bytes of the data that are in memory at once."""

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""Time of every file in a zip, so that equal content gives equal bytes."""


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

MAX_UNPACKED_BYTES: Final = 64 << 20
"""Up to this size we pack the data to see whether it fits into a script. Larger data hardly shrinks to a sixteenth."""


def formats_of(spec: JobSpec, result: JobResult) -> list[ExportFormat]:
    """Return the formats that a result can be exported in. Files that they need may have been deleted since."""
    is_learned = result.learned_p is not None
    trains_one = spec.family is None or (result.learned_p is not None and result.learned_p.data_sha256 is not None)
    needs = {ExportFormat.SAFETENSORS: is_learned, ExportFormat.PYTHON: trains_one, ExportFormat.ZIP: trains_one}
    return [fmt for fmt in ExportFormat if needs.get(fmt, True)]


def write(job: Job, result: JobResult, fmt: ExportFormat, artifacts: ArtifactStore, target: IO[bytes]) -> None:
    """Write an export to a seekable file. Data, which may be large, is copied piece by piece.

    Raises:
        NotFoundError: The recommendation has no learned P (``safetensors``), or the prepared data is gone (``zip``).
        ConflictError: A script or a zip was asked for, but a job on a family of tasks recommends no learned P.
    """
    plan = plan_of(job.spec, job.dataset_info)
    # for a family that is the split of one task, which the run from the learned P trained on
    one_task = result.learned_p.data_sha256 if result.learned_p else None
    name, digest = (TASK_FILE, one_task) if one_task else (DATA_FILE, job.data_sha256)
    if fmt in (ExportFormat.PYTHON, ExportFormat.ZIP) and fmt not in formats_of(plan.spec, result):
        raise ConflictError(
            f"a job on a family of tasks has a script only if it recommends a learned P, and this one recommends "
            f"{result.arm}. Its config is in the formats json, yaml and toml"
        )
    match fmt:
        case ExportFormat.PYTHON:
            size = artifacts.size_bytes(job.id, name)
            data = None if size is None or size > MAX_UNPACKED_BYTES else artifacts.get(job.id, name)
            target.write(make_script(plan, result, digest, data).encode())
        case ExportFormat.SAFETENSORS:
            target.write(_learned_p(result, artifacts))
        case ExportFormat.ZIP:
            _write_bundle(job, plan, result, (name, digest), artifacts, target)
        case _:
            target.write(_text(_document(job, plan, result), fmt).encode())


def _text(document: dict[str, JsonValue], fmt: ExportFormat) -> str:
    if fmt is ExportFormat.YAML:
        import yaml

        return str(yaml.safe_dump(document, sort_keys=False))
    if fmt is ExportFormat.TOML:
        import tomli_w

        return tomli_w.dumps({name: _without_none(value) for name, value in document.items() if value is not None})
    return json.dumps(document, indent=2) + "\n"


def _without_none(value: JsonValue) -> JsonValue:
    """Leave out fields without a value: TOML has no null."""
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _document(job: Job, plan: JobPlan, result: JobResult) -> dict[str, JsonValue]:
    return {
        "job": job.id,
        "name": job.name,
        "verdict": str(result.verdict),
        "reason": result.reason,
        "summary": result.summary,
        "optimizer": OPTIMIZERS[plan.arm(result.arm).optimizer].library,
        "config": result.config,
        "trial": result.trial,
        "statistics": result.to_json()["statistics"],
        "spec": job.spec,
        "data_sha256": job.data_sha256,
        "warptune": VERSION,
    }


def _learned_p(result: JobResult, artifacts: ArtifactStore) -> bytes:
    """Return the file of the learned P, exactly as the recorded run from it used it."""
    learned = result.learned_p
    if learned is None:
        raise NotFoundError(f"job {result.job_id} recommends {result.arm}, which has no learned P to export")
    return _unchanged(result.job_id, learned.file, learned.sha256, artifacts)


def _write_bundle(
    job: Job,
    plan: JobPlan,
    result: JobResult,
    data: tuple[str, str | None],
    artifacts: ArtifactStore,
    target: IO[bytes],
) -> None:
    """Write the zip; ``data`` is the artifact with the prepared data, and its hash."""
    name, digest = data
    if artifacts.sha256(job.id, name) != digest:
        raise NotFoundError(f"the prepared data of job {job.id} is no longer in the artifact store")
    files = {
        SCRIPT: make_script(plan, result, digest, None).encode(),
        DOCUMENT: _text(_document(job, plan, result), ExportFormat.JSON).encode(),
    }
    if result.learned_p is not None:
        files[P_FILE] = _learned_p(result, artifacts)
    if start := start_sha256(plan, result):
        files[START_FILE] = _unchanged(job.id, START_P_FILE, start, artifacts)
    if weights := result.weights:
        files[WEIGHTS_FILE] = _unchanged(job.id, weights.file, weights.sha256, artifacts)
        if weights.preprocessing_sha256 is not None:
            files[PREPROCESSING_FILE] = _unchanged(job.id, PREPROCESSING_FILE, weights.preprocessing_sha256, artifacts)
            files[PREDICT_SCRIPT] = make_predict_script(plan, result, weights).encode()
    run, learned = replayed_run(plan, result), result.learned_p
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    manifest = {
        "format": BUNDLE_FORMAT,
        "format_version": BUNDLE_VERSION,
        "job": job.id,
        "name": job.name,
        "arm": result.arm,
        "files": {**sums, DATA_FILE: digest},
        "versions": result.made_with,
        "seeds": {"job": plan.spec.seed, "confirm": [pair.seed for pair in result.pairs]},
        "data_sha256": digest,
        "run": summary(plan, result),
        "expected": {"seed": run.seed, "test_loss": run.test_loss, "test_score": run.test_score},
        "expected_from_p": learned and {"seed": learned.seed, "test_loss": learned.test_loss},
        "weights": weights and {"seed": weights.seed, "test_loss": weights.test_loss},
        "spec": job.spec,
        "user_code": dict(plan.info.sources),
    }
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in {MANIFEST: json.dumps(manifest, indent=2).encode(), **files}.items():
            archive.writestr(_entry(file), content)
        with artifacts.open(job.id, name) as split, archive.open(_entry(DATA_FILE), "w", force_zip64=True) as packed:
            shutil.copyfileobj(split, packed, PIECE_BYTES)


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry of the zip: without a clock, and readable for all where it is unpacked."""
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _unchanged(job_id: str, name: str, digest: str, artifacts: ArtifactStore) -> bytes:
    """Return the artifact of a job that has this hash."""
    content = artifacts.get(job_id, name)
    if content is None or hashlib.sha256(content).hexdigest() != digest:
        raise NotFoundError(f"{name} of job {job_id} is no longer in the artifact store")
    return content
