"""Routes of jobs and their histories."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import Field, JsonValue
from sqlalchemy.orm import Session

from service.api.deps import (
    NEEDS_ROOM,
    ArtifactsDep,
    DatabaseDep,
    JobId,
    PageQuery,
    ReadersDep,
    SettingsDep,
    StrictQuery,
    StudiesDep,
    Text,
    UserCodeDep,
)
from service.api.problems import responses
from service.api.views import JobSummary, JobView, Page
from service.db.models import Job
from service.db.session import Database
from service.ledger import jobs as ledger
from service.ledger import queries, removal
from service.ledger.idempotency import Answer
from service.spec.job import ExtendSpec, JobSpec, Tags
from service.states import JobState
from service.submission import Context
from service.submission import submit as submission
from service.submission.estimate import JobEstimate
from service.submission.extend import extend, retry

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

KeyHeader = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Makes it safe to send the request again: the same key has one effect and the same answer.",
    ),
]


class JobQuery(PageQuery):
    """Which jobs to list."""

    state: JobState | None = None
    dataset: Text | None = None
    name: Text | None = None
    tag: Tags = Field([], description="Only jobs with this tag; with several, all.")


class SubmitQuery(StrictQuery):
    """What to do with a spec."""

    dry_run: bool = Field(False, description="Answer with the plan and an estimate; queue nothing.")


async def _context(
    request: Request,
    db: DatabaseDep,
    artifacts: ArtifactsDep,
    user_code: UserCodeDep,
    readers: ReadersDep,
    settings: SettingsDep,
) -> Context:
    is_private = bool(request.app.state.private_key)
    return Context(db, artifacts, user_code, readers, settings, is_private)


ContextDep = Annotated[Context, Depends(_context)]


@router.post(
    "",
    status_code=202,
    dependencies=NEEDS_ROOM,
    responses={
        200: {"model": JobEstimate, "description": "A dry run: what the job would do and cost."},
        **responses(400, 403, 409, 413, 422, 503, 507),
    },
)
def submit_job(
    spec: JobSpec,
    response: Response,
    context: ContextDep,
    wanted: Annotated[SubmitQuery, Query()],
    idempotency_key: KeyHeader = None,
) -> JobView | JobEstimate:
    """Queue a job. With an `Idempotency-Key`, sending the same body again answers the same and queues nothing."""
    if wanted.dry_run:
        response.status_code = 200
        return submission.dry_run(context, spec)
    answer = submission.submit(context, spec, _render, idempotency_key)
    view = _answered(answer, response, idempotency_key)
    response.headers["Location"] = view.links.self
    return view


@router.get("", responses=responses(422))
def list_jobs(db: DatabaseDep, wanted: Annotated[JobQuery, Query()]) -> Page[JobSummary]:
    """List jobs, the newest first."""
    with db.read() as session:
        equals = {"state": wanted.state, "dataset": wanted.dataset, "name": wanted.name}
        rows = queries.jobs_page(session, wanted.limit + 1, wanted.cursor, wanted.tag, **equals)
        places = queries.queue_positions(session, rows)
    return Page[JobSummary].of(rows, wanted.limit, lambda row: JobSummary.of(row, places), lambda row: row.seq)


@router.get("/{job_id}", responses=responses(404, 422))
def get_job(job_id: JobId, db: DatabaseDep) -> JobView:
    """Show a job with its arms."""
    return _view(db, job_id)


@router.delete("/{job_id}", status_code=204, responses=responses(404, 409, 422))
def remove_job(job_id: JobId, db: DatabaseDep, artifacts: ArtifactsDep, studies: StudiesDep) -> None:
    """Delete a job with its trials, studies and files. Refused while it runs."""
    removal.remove_job(db, artifacts, studies.delete, job_id)


@router.post("/{job_id}/cancel", status_code=202, responses=responses(404, 409, 422))
def cancel_job(job_id: JobId, db: DatabaseDep, artifacts: ArtifactsDep) -> JobView:
    """Cancel a job. Running trials stop within two seconds; a queued job is cancelled at once."""
    if ledger.cancel(db, job_id).state == JobState.CANCELLED:  # otherwise its worker deletes them
        artifacts.delete_checkpoints(job_id)
    return _view(db, job_id)


@router.post("/{job_id}/stop", status_code=202, responses=responses(404, 409, 422))
def stop_job(job_id: JobId, db: DatabaseDep) -> JobView:
    """End the search of a job early and judge the trials so far. Trials that run are finished.

    Arms that were not searched yet get as many trials as the others count, so that the comparison stays fair.
    """
    ledger.stop(db, job_id)
    return _view(db, job_id)


@router.post("/{job_id}/pause", status_code=202, responses=responses(404, 409, 422))
def pause_job(job_id: JobId, db: DatabaseDep) -> JobView:
    """Pause a job. Its runs stop within two seconds and go on from their checkpoints when it is resumed."""
    ledger.pause(db, job_id)
    return _view(db, job_id)


@router.post("/{job_id}/resume", status_code=202, responses=responses(404, 409, 422))
def resume_job(job_id: JobId, db: DatabaseDep) -> JobView:
    """Queue a paused job again, or withdraw a pause that has not happened yet. Any worker may go on with it."""
    ledger.resume(db, job_id)
    return _view(db, job_id)


@router.post(
    "/{job_id}/retry", status_code=202, dependencies=NEEDS_ROOM, responses=responses(403, 404, 409, 422, 503, 507)
)
def retry_job(job_id: JobId, response: Response, context: ContextDep, idempotency_key: KeyHeader = None) -> JobView:
    """Run a failed or cancelled job again, from where it stood. Its finished trials are kept.

    A job that is queued or running is answered as it is, so it is safe to send this again.
    """
    return _answered(retry(context, job_id, _render, idempotency_key), response, idempotency_key)


@router.post(
    "/{job_id}/extend",
    status_code=202,
    dependencies=NEEDS_ROOM,
    responses=responses(400, 403, 404, 409, 413, 422, 503, 507),
)
def extend_job(
    job_id: JobId, more: ExtendSpec, response: Response, context: ContextDep, idempotency_key: KeyHeader = None
) -> JobView:
    """Add trials, seeds or seconds to a job that has succeeded. Its failed confirmation runs run again.

    A verdict on new runs is tested at half the level.
    """
    return _answered(extend(context, job_id, more, _render, idempotency_key), response, idempotency_key)


def _view(db: Database, job_id: str) -> JobView:
    with db.read() as session:
        return _view_of(session, ledger.require_job(session, job_id))


def _view_of(session: Session, job: Job) -> JobView:
    arms, confirm = queries.arm_summaries(session, job.id), queries.confirm_progress(session, job.id)
    return JobView.with_arms(job, queries.queue_positions(session, [job]), arms, confirm)


def _render(session: Session, job: Job) -> dict[str, JsonValue]:
    return _view_of(session, job).model_dump(mode="json")


def _answered(answer: Answer, response: Response, key: str | None) -> JobView:
    if key is not None:
        response.headers["Idempotent-Replayed"] = str(answer.replayed).lower()
    return JobView.model_validate(answer.body)
