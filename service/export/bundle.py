"""The zip export: script, config, prepared data and P, with their hashes. ``replay.py`` reads it again."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from typing import IO, Final

from service.artifacts import DATA_FILE, START_P_FILE, TASK_FILE, ArtifactStore
from service.db.models import Job
from service.errors import NotFoundError
from service.export.script import make_script, replayed_run, start_sha256, summary
from service.planning.plan import JobPlan
from service.result.job_result import JobResult

MANIFEST: Final = "manifest.json"
SCRIPT: Final = "recommended.py"
DOCUMENT: Final = "recommended.json"
P_FILE: Final = "p.safetensors"
START_FILE: Final = "start.safetensors"
"""Files of a zip; the prepared data is ``data.npz``."""

BUNDLE_FORMAT: Final = "warptune.job"
BUNDLE_VERSION: Final = 1
"""Grows when today's reader could not understand the zip."""

PIECE_BYTES: Final = 1 << 20
"""Bytes of the data that are in memory at once."""

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""Time of every file in a zip, so that equal content gives equal bytes."""


def data_of(job: Job, result: JobResult) -> tuple[str, str | None]:
    """Return the artifact with the data that the exported runs train on, and its hash.

    For a family that is the split of one task, which the run from the learned P trained on.
    """
    digest = result.learned_p.data_sha256 if result.learned_p else None
    return (TASK_FILE, digest) if digest else (DATA_FILE, job.data_sha256)


def learned_p_of(result: JobResult, artifacts: ArtifactStore) -> bytes:
    """Return the file of the learned P, exactly as the recorded run from it used it.

    Raises:
        NotFoundError: There is none, or it is gone.
    """
    learned = result.learned_p
    if learned is None:
        raise NotFoundError(f"job {result.job_id} recommends {result.arm}, which has no learned P to export")
    return _unchanged(result.job_id, learned.file, learned.sha256, artifacts)


def write_bundle(
    job: Job, plan: JobPlan, result: JobResult, document: str, artifacts: ArtifactStore, target: IO[bytes]
) -> None:
    """Write the zip.

    Args:
        job: The job.
        plan: Its plan.
        result: Its result.
        document: The recommended config as JSON.
        artifacts: Has the prepared data and the P.
        target: Where to write; it must be seekable.

    Raises:
        NotFoundError: The prepared data or a P is no longer there.
    """
    name, digest = data_of(job, result)
    if _sha256(job, name, artifacts) != digest:
        raise NotFoundError(f"the prepared data of job {job.id} is no longer in the artifact store")
    files = {SCRIPT: make_script(plan, result, digest, None).encode(), DOCUMENT: document.encode()}
    if result.learned_p is not None:
        files[P_FILE] = learned_p_of(result, artifacts)
    if start := start_sha256(plan, result):
        files[START_FILE] = _unchanged(job.id, START_P_FILE, start, artifacts)
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
        "expected": {"seed": run.seed, "test_loss": run.test_loss},
        "expected_from_p": learned and {"seed": learned.seed, "test_loss": learned.test_loss},
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


def _unchanged(job_id: str, name: str, digest: str, artifacts: ArtifactStore) -> bytes:
    """Return the artifact of a job that has this hash."""
    content = artifacts.get(job_id, name)
    if content is None or hashlib.sha256(content).hexdigest() != digest:
        raise NotFoundError(f"{name} of job {job_id} is no longer in the artifact store")
    return content


def _sha256(job: Job, name: str, artifacts: ArtifactStore) -> str | None:
    try:
        with artifacts.open(job.id, name) as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except FileNotFoundError:
        return None
