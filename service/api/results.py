"""Routes of what a job finds: its trials, and its result as recommendation, exports and report."""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Final

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from service.api.deps import ArtifactsDep, DatabaseDep, JobId, Number, PageQuery, StrictQuery, Text
from service.api.pages.report import make_report
from service.api.problems import responses
from service.api.views import Page, PointView, TrialDetail, TrialView
from service.db.models import Job
from service.db.session import Database
from service.errors import OtherVersionError
from service.export.files import PIECE_BYTES, ExportFormat, formats_of, write
from service.export.snippet import optimizer_lines
from service.ledger import queries
from service.ledger.jobs import require_job
from service.planning.plan import plan_of
from service.result.job_result import JobResult
from service.states import TrialState

MAX_IN_MEMORY_BYTES: Final = 16 << 20
"""Larger exports are written to a temporary file: that of a large dataset does not fit into memory."""

REPORT_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
}
"""The report has its style in it, so that one can save it, and no script."""

FILE: Final = {"type": "string", "format": "binary"}
OBJECT: Final = {"type": "object", "additionalProperties": True}
EXPORTED: Final = {
    fmt.media_type: {"schema": OBJECT if fmt in (ExportFormat.JSON, ExportFormat.YAML) else FILE}
    for fmt in ExportFormat
}
"""What the document of the API says of an export; it describes YAML as it does JSON."""

router = APIRouter(prefix="/v1/jobs/{job_id}")


class TrialQuery(PageQuery):
    """Which trials to list."""

    arm: Text | None = Field(None, description="Only trials of this arm.")
    state: TrialState | None = Field(None, description="Only trials in this state.")


@router.get("/trials", tags=["trials"], responses=responses(404, 409, 422))
def list_trials(job_id: JobId, db: DatabaseDep, wanted: Annotated[TrialQuery, Query()]) -> Page[TrialView]:
    """List the trials of a job, in the order of their numbers."""
    with db.read() as session:
        job = require_job(session, job_id)
        plan = plan_of(job.spec, job.dataset_info)
        rows = queries.trials_page(session, job_id, wanted.limit + 1, wanted.cursor, arm=wanted.arm, state=wanted.state)
    return Page[TrialView].of(rows, wanted.limit, lambda row: TrialView.of(row, plan), lambda row: row.number)


@router.get("/trials/{number}", tags=["trials"], responses=responses(404, 409, 422))
def get_trial(job_id: JobId, number: Number, db: DatabaseDep) -> TrialDetail:
    """Show a trial with its learning curve."""
    with db.read() as session:
        job = require_job(session, job_id)
        plan = plan_of(job.spec, job.dataset_info)
        row, points = queries.trial(session, job_id, number)
    curve = [PointView.model_validate(point) for point in points]
    return TrialDetail(**TrialView.of(row, plan).model_dump(), curve=curve)


def code_and_formats(job_id: str, db: Database) -> tuple[str | None, list[ExportFormat]]:
    """Return what a person can take from a result.

    Returns:
        The lines of Python that make the recommended optimizer, None if a call is not enough; the formats of export.
    """
    with db.read() as session:
        job = require_job(session, job_id)
        return _code_and_formats(job, queries.result(session, job))


def _code_and_formats(job: Job, result: JobResult) -> tuple[str | None, list[ExportFormat]]:
    try:
        plan = plan_of(job.spec, job.dataset_info)
        return optimizer_lines(plan, result), formats_of(plan.spec, result)
    except OtherVersionError:
        return None, []


class ExportQuery(StrictQuery):
    """What to export."""

    format: ExportFormat = Field(ExportFormat.JSON, description="Form of the file.")


@router.get("/recommendation", tags=["results"], responses=responses(404, 409, 422))
def get_recommendation(job_id: JobId, db: DatabaseDep) -> JobResult:
    """Show what to use, whether P helps, and the figures behind it. 409 until the job has succeeded."""
    with db.read() as session:
        return queries.result(session, require_job(session, job_id))


@router.get(
    "/export",
    tags=["results"],
    responses={200: {"content": EXPORTED}, **responses(404, 409, 422)},
    response_class=Response,
)
def export(
    job_id: JobId, db: DatabaseDep, artifacts: ArtifactsDep, wanted: Annotated[ExportQuery, Query()]
) -> Response:
    """Download the recommended config: as data, as a script, its learned P, or everything in a zip.

    404 for `safetensors` when the recommendation has no P.
    """
    with db.read() as session:
        job = require_job(session, job_id)
        result = queries.result(session, job)
    fmt = wanted.format
    name = f"recommended-{job_id}.{fmt.suffix}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    file = SpooledTemporaryFile(max_size=MAX_IN_MEMORY_BYTES)  # noqa: SIM115 - closed when it has been sent
    try:
        write(job, result, fmt, artifacts, file)
    except BaseException:
        file.close()
        raise
    headers["Content-Length"] = str(file.tell())
    file.seek(0)
    return StreamingResponse(_pieces(file), media_type=fmt.media_type, headers=headers)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


@router.get(
    "/report",
    tags=["results"],
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}, **responses(404, 409, 422)},
    response_class=Response,
)
def report(job_id: JobId, db: DatabaseDep) -> Response:
    """Show the result as one page that you can save and open offline. 409 until the job has succeeded."""
    with db.read() as session:
        job = require_job(session, job_id)
        result = queries.result(session, job)
        runs = queries.confirm_runs(session, job_id)
        code, formats = _code_and_formats(job, result)
    return Response(make_report(job, result, runs, code, formats), media_type="text/html", headers=REPORT_HEADERS)
