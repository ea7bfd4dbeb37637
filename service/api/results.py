# Routes of what a job ends with.
"""Recommendations and exports over HTTP."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.deps import ArtifactsDep, DatabaseDep, JobId
from service.api.problems import responses
from service.api.views import RecommendationView
from service.artifacts import DATA_FILE
from service.ledger import queries
from service.ledger.jobs import require_job
from service.recommend.export import ExportFormat, render

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])


class ExportQuery(BaseModel):
    """What to export."""

    model_config = ConfigDict(extra="forbid")

    format: ExportFormat = Field(ExportFormat.JSON, description="Form of the file.")


@router.get(
    "/recommendation",
    responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def get_recommendation(job_id: JobId, db: DatabaseDep) -> RecommendationView:
    """Show what to use, whether P helps, and the figures behind it. 409 until the job has succeeded."""
    with db.read() as session:
        row = queries.recommendation(session, require_job(session, job_id))
    return RecommendationView(job_id=job_id, **row.data)


@router.get(
    "/export",
    responses={
        200: {"content": {"application/json": {}, "application/yaml": {}, "text/x-python": {}}},
        **responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
    },
    response_class=Response,
)
def export(
    job_id: JobId, db: DatabaseDep, artifacts: ArtifactsDep, wanted: Annotated[ExportQuery, Query()]
) -> Response:
    """Download the recommended config: as data, or as a script that trains with it."""
    with db.read() as session:
        job = require_job(session, job_id)
        row = queries.recommendation(session, job)
    fmt = wanted.format
    name = f"recommended-{job_id}.{fmt.suffix}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(
        render(job, row, fmt, artifacts.path(job_id, DATA_FILE)), media_type=fmt.media_type, headers=headers
    )
