"""Submits a job: checks the spec, makes the plan, stores the job's files, queues the job.

    submit    queue a job
    dry_run   the same checks and the same plan, answered with an estimate; nothing is stored

:mod:`service.submission.extend` adds to a job that has succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue
from sqlalchemy.orm import Session

from service.artifacts import START_P_FILE
from service.db.models import Job
from service.errors import FieldError, InvalidSpecError
from service.ledger import jobs
from service.ledger.idempotency import Answer, KeyedRequest, Render, answer_once, find_answer
from service.planning.checks import check_engine
from service.planning.plan import JobPlan
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec
from service.submission import Context, admission
from service.submission.datasets import find_columns, find_info, warnings_about_rows
from service.submission.earlier_trials import EARLIER_TRIALS_FILE, find_earlier_trials
from service.submission.estimate import JobEstimate, estimate
from service.submission.warm_start import plan_warm_start


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A checked spec: its plan, the facts to store with it, and the files that its job starts with."""

    plan: JobPlan
    info: DatasetInfo | None
    files: dict[str, bytes]


def submit(context: Context, spec: JobSpec, render: Render, key: str | None = None) -> Answer:
    """Queue a job.

    Args:
        context: What to read and write.
        spec: The spec as it was sent.
        render: Makes the answer from the row of the job.
        key: The Idempotency-Key; the same key and spec repeat the first answer and queue nothing.

    Raises:
        InvalidSpecError: With the fields that are wrong, or ask for more than is allowed or possible.
        QueueFullError: As many jobs wait as may.
        QuotaExceededError: The project stores as many bytes as it may.
        ForbiddenError: The operator has not allowed the user code.
        UnavailableError: Too many others are trying user code.
        ConflictError: An uploaded dataset was deleted, or another version stored what the spec refers to.
        IdempotencyConflictError: The key was used with another spec.
    """
    body = {"spec": spec.without_defaults(), "model": spec.model.name}  # the name of a model is its default
    request = KeyedRequest.of(key, body, context.settings.idempotency_key_s, spec.to_json())
    if request is not None:  # before any check: the earlier job or dataset that the spec names may be gone by now
        earlier = find_answer(context.db, request)
        if earlier is not None:
            return earlier
    prepared = _prepare(context, spec)
    plan, job_id, was_committing = prepared.plan, jobs.new_id(), False
    admission.require_time(context.settings, plan)
    needs_module = plan.spec.user_module if context.is_private else None

    def add(session: Session) -> Job:
        admission.require_place(context, session)
        arms = [arm.name for arm in plan.arms]
        return jobs.add(session, plan.spec, arms, prepared.info, job_id, needs_module)

    def render_last(session: Session, job: Job) -> dict[str, JsonValue]:
        nonlocal was_committing
        answer = render(session, job)
        was_committing = True
        return answer

    try:
        for name, content in prepared.files.items():
            context.artifacts.put(job_id, name, content)
        answer = answer_once(context.db, request, add, render_last)
    except BaseException:
        if prepared.files and not (was_committing and jobs.is_stored(context.db, job_id)):
            context.artifacts.delete_job(job_id)
        raise
    if prepared.files and answer.replayed:
        context.artifacts.delete_job(job_id)
    return answer


def dry_run(context: Context, spec: JobSpec) -> JobEstimate:
    """Return what a job would do and cost, and store nothing.

    Raises:
        InvalidSpecError: With the fields that are wrong, or ask for more than is allowed or possible.
        ForbiddenError: The operator has not allowed the user code.
        UnavailableError: The cost could not be measured now.
        ConflictError: Another version stored what the spec refers to.
    """
    plan = _prepare(context, spec).plan
    columns = find_columns(context, spec)
    found = estimate(plan, context.settings, columns, warnings_about_rows(context, plan.spec, plan.task))
    admission.require_time(context.settings, plan, found)
    return found


def _prepare(context: Context, spec: JobSpec) -> _Prepared:
    if missing := [*check_engine(spec)]:
        raise InvalidSpecError(*missing)
    refusal = spec.notify and context.settings.notify_refusal(spec.notify.url)
    if spec.notify and refusal:
        raise InvalidSpecError(FieldError("notify.url", spec.notify.url, refusal, code="not_allowed"))
    info = find_info(context, spec)
    plan, start_p = plan_warm_start(context, spec, info)
    admission.require_possible(context.settings, plan)
    files = {START_P_FILE: start_p, EARLIER_TRIALS_FILE: find_earlier_trials(context.db, plan)}
    return _Prepared(plan, info, {name: content for name, content in files.items() if content is not None})
