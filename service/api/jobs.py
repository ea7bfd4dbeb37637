# Routes of jobs and their histories. Thin: check, call the ledger, render.
"""Jobs over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field
from sqlalchemy.orm import Session

from service import deletion
from service.api.deps import ArtifactsDep, DatabaseDep, JobId, PageQuery, StrictQuery, StudiesDep, Text, UserCodeDep
from service.api.problems import responses
from service.api.views import EventView, JobSummary, JobView, Page
from service.artifacts import START_P_FILE, ArtifactStore
from service.data.catalog import DatasetInfo
from service.db.models import Job
from service.db.session import Database
from service.ledger import datasets, queries
from service.ledger import jobs as ledger
from service.planning.plan import JobPlan, extended
from service.spec.job import ExtendSpec, JobSpec
from service.states import JobState
from service.stored import stored_spec
from service.submission.earlier_trials import EARLIER_TRIALS_FILE, find_earlier_trials
from service.submission.estimate import JobEstimate, estimate
from service.submission.warm_start import note, plan_warm_start
from service.user_code.probe import UserCode

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


KeyHeader = Annotated[
    str | None,
    Header(
        min_length=1, max_length=255, description="Makes it safe to send again: one key, one effect, the same answer."
    ),
]


class JobQuery(PageQuery):
    """Which jobs to list."""

    state: JobState | None = None
    dataset: Text | None = None
    name: Text | None = None


class SubmitQuery(StrictQuery):
    """How a spec is taken."""

    dry_run: bool = Field(False, description="Answer the plan with an estimate, and queue nothing.")


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    responses={
        200: {"model": JobEstimate, "description": "A dry run: what the job would do and cost."},
        **responses(
            HTTPStatus.FORBIDDEN,
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    },
)
def submit_job(
    spec: JobSpec,
    response: Response,
    db: DatabaseDep,
    artifacts: ArtifactsDep,
    user_code: UserCodeDep,
    wanted: Annotated[SubmitQuery, Query()],
    idempotency_key: KeyHeader = None,
) -> JobView | JobEstimate:
    """Queue a job. With an `Idempotency-Key`, sending the same body again answers the same and queues nothing."""
    if wanted.dry_run:
        response.status_code = HTTPStatus.OK
        plan = _plan(db, artifacts, user_code, spec)[0]
        return estimate(plan, spec.model.training_rows(plan.info), note(plan))
    earlier = ledger.earlier_answer(db, idempotency_key, spec.to_json()) if idempotency_key is not None else None
    if earlier is not None:
        view, replayed = JobView.model_validate(earlier), True
    else:
        view, replayed = _queue(db, artifacts, user_code, spec, idempotency_key)
    if idempotency_key is not None:
        response.headers["Idempotent-Replayed"] = str(replayed).lower()
    response.headers["Location"] = view.links.self
    return view


def _plan(
    db: Database, artifacts: ArtifactStore, user_code: UserCode, spec: JobSpec
) -> tuple[JobPlan, DatasetInfo | None, dict[str, bytes]]:
    """Return the plan of a job, what is known of its data, and the files that it comes with."""
    info = user_code.info_for(spec, datasets.info_for(db, spec))
    plan, start_p = plan_warm_start(db, artifacts, spec, info)
    files = {START_P_FILE: start_p, EARLIER_TRIALS_FILE: find_earlier_trials(db, plan)}
    return plan, info, {name: content for name, content in files.items() if content is not None}


def _queue(
    db: Database, artifacts: ArtifactStore, user_code: UserCode, spec: JobSpec, key: str | None
) -> tuple[JobView, bool]:
    """Queue a job with the files that it comes with; those of one that did not come to be are deleted."""
    plan, info, files = _plan(db, artifacts, user_code, spec)
    kept: list[str] = []

    def keep(job_id: str) -> None:
        kept.append(job_id)
        for name, content in files.items():
            artifacts.put(job_id, name, content)

    whole, arms = plan.spec.to_json(), [arm.name for arm in plan.arms]
    known, made = None if info is None else asdict(info), ""
    try:
        if key is None:
            view, replayed = _view(db, ledger.submit(db, whole, arms, known, keep).id), False
        else:
            answer, replayed = ledger.submit_once(db, whole, arms, key, _render, known, keep, spec.to_json())
            view = JobView.model_validate(answer)
        made = view.id
    finally:
        for job_id in kept:
            if files and job_id != made:
                artifacts.delete_job(job_id)
    return view, replayed


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


@router.post(
    "/{job_id}/extend",
    status_code=HTTPStatus.ACCEPTED,
    responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def extend_job(
    job_id: JobId, more: ExtendSpec, response: Response, db: DatabaseDep, idempotency_key: KeyHeader = None
) -> JobView:
    """Add trials, seeds or seconds to a job that has succeeded. Its next verdict is tested at half the level."""

    def change(spec: Mapping[str, Any]) -> dict[str, Any]:
        return extended(stored_spec(spec), more).to_json()

    answer, replayed = ledger.extend(db, job_id, change, more.model_dump(), idempotency_key, _render)
    if idempotency_key is not None:
        response.headers["Idempotent-Replayed"] = str(replayed).lower()
    return JobView.model_validate(answer)


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
