"""Routes of the trials of a job."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from service.api.deps import DatabaseDep, JobId, Number, PageQuery, Text
from service.api.problems import responses
from service.api.views import Page, PointView, TrialDetail, TrialView
from service.ledger import queries
from service.ledger.jobs import require_job
from service.planning.plan import plan_of
from service.states import TrialState

router = APIRouter(prefix="/v1/jobs/{job_id}/trials", tags=["trials"])


class TrialQuery(PageQuery):
    """Which trials to list."""

    arm: Text | None = Field(None, description="Only trials of this arm.")
    state: TrialState | None = Field(None, description="Only trials in this state.")


@router.get("", responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY))
def list_trials(job_id: JobId, db: DatabaseDep, wanted: Annotated[TrialQuery, Query()]) -> Page[TrialView]:
    """List the trials of a job, in the order of their numbers."""
    with db.read() as session:
        job = require_job(session, job_id)
        plan = plan_of(job.spec, job.dataset_info)
        rows = queries.trials_page(session, job_id, wanted.limit + 1, wanted.cursor, arm=wanted.arm, state=wanted.state)
    return Page[TrialView].of(rows, wanted.limit, lambda row: TrialView.of(row, plan), lambda row: row.number)


@router.get(
    "/{number}", responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)
)
def get_trial(job_id: JobId, number: Number, db: DatabaseDep) -> TrialDetail:
    """Show a trial with its learning curve."""
    with db.read() as session:
        job = require_job(session, job_id)
        plan = plan_of(job.spec, job.dataset_info)
        row, points = queries.trial(session, job_id, number)
    curve = [PointView.model_validate(point) for point in points]
    return TrialDetail(**TrialView.of(row, plan).model_dump(), curve=curve)
