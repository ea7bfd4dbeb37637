"""The recommended config as a file: plain data, the learned P, a script that trains with it, or a zip with all of it.

No format uses pickle.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import IO, Final

from pydantic import JsonValue

from service.artifacts import ArtifactStore
from service.db.models import Job
from service.errors import ConflictError
from service.export.bundle import data_of, learned_p_of, write_bundle
from service.export.script import make_script
from service.optimizers import OPTIMIZERS
from service.planning.plan import JobPlan, plan_of
from service.result.job_result import JobResult
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

MAX_UNPACKED_BYTES: Final = 64 << 20
"""Up to this size we pack the data to see whether it fits into a script. Larger data hardly shrinks to a sixteenth."""


def write(job: Job, result: JobResult, fmt: ExportFormat, artifacts: ArtifactStore, target: IO[bytes]) -> None:
    """Write an export to a seekable file. Data, which may be large, is copied piece by piece.

    Args:
        job: The job.
        result: Its result.
        fmt: Form of the file.
        artifacts: Has the prepared data and the learned P.
        target: Where to write.

    Raises:
        NotFoundError: The recommendation has no learned P (``safetensors``), or the prepared data is gone (``zip``).
        ConflictError: A script or a zip was asked for, but a job on a family of tasks recommends no learned P.
    """
    plan = plan_of(job.spec, job.dataset_info)
    name, digest = data_of(job, result)
    has_one_task = result.learned_p is not None and result.learned_p.data_sha256 is not None
    if fmt in (ExportFormat.PYTHON, ExportFormat.ZIP) and plan.spec.family and not has_one_task:
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
            target.write(learned_p_of(result, artifacts))
        case ExportFormat.ZIP:
            write_bundle(job, plan, result, _text(_document(job, plan, result), ExportFormat.JSON), artifacts, target)
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
        "optimizer": OPTIMIZERS[plan.arm(result.arm).optimizer].library,
        "config": result.config,
        "trial": result.trial,
        "statistics": result.to_json()["statistics"],
        "spec": job.spec,
        "data_sha256": job.data_sha256,
        "warptune": VERSION,
    }
