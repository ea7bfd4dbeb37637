# Routes of jobs and their histories. Thin: check, call the ledger, render.
"""Jobs over HTTP."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from sqlalchemy.orm import Session

from service import deletion
from service.api.deps import ArtifactsDep, DatabaseDep, JobId, PageQuery, StudiesDep, Text
from service.api.problems import responses
from service.api.views import EventView, JobSummary, JobView, Page
from service.db.models import Job
from service.db.session import Database
from service.ledger import jobs as ledger
from service.ledger import queries
from service.plan import make_plan
from service.schemas import JobSpec
from service.states import JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class JobQuery(PageQuery):
    """Which jobs to list."""

    state: JobState | None = None
    dataset: Text | None = None
    name: Text | None = None


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    responses=responses(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def submit_job(
    spec: JobSpec,
    response: Response,
    db: DatabaseDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1, max_length=255, description="Makes it safe to send again: one key, one job, the same answer."
        ),
    ] = None,
) -> JobView:
    """Queue a job. With an `Idempotency-Key`, sending the same body again answers the same and queues nothing."""
    arms = [arm.name for arm in make_plan(spec).arms]
    if idempotency_key is None:
        view = _view(db, ledger.submit(db, spec.to_json(), arms).id)
    else:
        answer, replayed = ledger.submit_once(db, spec.to_json(), arms, idempotency_key, _render)
        view = JobView.model_validate(answer)
        response.headers["Idempotent-Replayed"] = str(replayed).lower()
    response.headers["Location"] = view.links.self
    return view


@router.get("", responses=responses(HTTPStatus.UNPROCESSABLE_ENTITY))
def list_jobs(db: DatabaseDep, wanted: Annotated[JobQuery, Query()]) -> Page[JobSummary]:
    """List jobs, the newest first."""
    with db.read() as session:
        rows = queries.jobs_page(
            session, wanted.limit + 1, wanted.cursor, state=wanted.state, dataset=wanted.dataset, name=wanted.name
        )
    return Page[JobSummary].of(rows, wanted.limit, JobSummary.model_validate, lambda row: row.seq)


@router.get("/{job_id}", responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY))
def get_job(job_id: JobId, db: DatabaseDep) -> JobView:
    """Show a job with its arms."""
    return _view(db, job_id)


@router.delete(
    "/{job_id}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def remove_job(job_id: JobId, db: DatabaseDep, artifacts: ArtifactsDep, studies: StudiesDep) -> None:
    """Delete a job with its trials, studies and files. Refused while it runs."""
    deletion.delete_job(db, studies, artifacts, job_id)


@router.post(
    "/{job_id}/cancel",
    status_code=HTTPStatus.ACCEPTED,
    responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def cancel_job(job_id: JobId, db: DatabaseDep, artifacts: ArtifactsDep) -> JobView:
    """Cancel a job. Running trials stop within two seconds; a queued job is cancelled at once."""
    deletion.cancel_job(db, artifacts, job_id)
    return _view(db, job_id)


@router.get("/{job_id}/events", responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY))
def list_events(job_id: JobId, db: DatabaseDep, wanted: Annotated[PageQuery, Query()]) -> Page[EventView]:
    """List what happened to a job, the oldest first."""
    with db.read() as session:
        ledger.require_job(session, job_id)
        rows = queries.events_page(session, job_id, wanted.limit + 1, wanted.cursor)
    return Page[EventView].of(rows, wanted.limit, EventView.of, lambda row: row.id)


def _view(db: Database, job_id: str) -> JobView:
    with db.read() as session:
        return _view_of(session, ledger.require_job(session, job_id))


def _view_of(session: Session, job: Job) -> JobView:
    return JobView.of(job, queries.arm_summaries(session, job.id), queries.confirm_progress(session, job.id))


def _render(session: Session, job: Job) -> dict[str, Any]:
    return _view_of(session, job).model_dump(mode="json")
