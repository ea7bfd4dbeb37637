"""Queues a job again: with more trials, seeds or seconds once it has succeeded, or retried. Failed runs run again."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.db.models import Job
from service.errors import ConflictError, FieldError, InvalidSpecError, conflict
from service.ledger import jobs, queries
from service.ledger.idempotency import Act, Answer, KeyedRequest, Render, answer_once, find_answer
from service.planning.plan import plan_of, what_depends_on_other_arms
from service.settings import Settings
from service.spec.dataset_info import DatasetInfo
from service.spec.job import MAX_CONFIRM_SEEDS, MAX_SECONDS, MAX_TRIALS, ExtendSpec, JobSpec
from service.states import ENDED_JOB
from service.submission import Context, admission
from service.submission.datasets import find_info


def extend(context: Context, job_id: str, more: ExtendSpec, render: Render, key: str | None = None) -> Answer:
    """Queue a job that has succeeded again, with a larger spec.

    ``render`` makes the answer from the row of the job. ``key`` is the Idempotency-Key; without one, sending again adds
    again once the job has succeeded.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has not succeeded, its dataset was deleted, its user code has changed, or another version
            stored it.
        InvalidSpecError: With the fields that cannot be added to, or that would add nothing.
        QueueFullError: As many jobs wait as may.
        QuotaExceededError: The project stores as many bytes as it may.
        IdempotencyConflictError: The key was used with another body.
    """

    def queue_again(session: Session) -> Job:
        job = jobs.require_job_for("extend", session, job_id)
        larger = extended(JobSpec.from_json(job.spec), more, context.settings)
        _check_it_adds(session, job, larger, more)
        admission.require_place(context, session)
        jobs.queue_again(session, job, larger, more)
        return job

    body, full = ({"job": job_id, "more": added} for added in (more.without_defaults(), more.model_dump()))
    request = KeyedRequest.of(key, body, context.settings.idempotency_key_s, full)
    return _queue_once(context, job_id, request, queue_again, render)


def retry(context: Context, job_id: str, render: Render, key: str | None = None) -> Answer:
    """Queue a job that has failed or was cancelled, and keep what it has finished. Sending it again changes nothing.

    ``render`` makes the answer from the row of the job. ``key`` is the Idempotency-Key.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has succeeded or is being cancelled, its dataset was deleted, its user code has changed,
            or another version stored it.
        QueueFullError: As many jobs wait as may.
        QuotaExceededError: The project stores as many bytes as it may.
        IdempotencyConflictError: The key was used with another body.
    """

    def queue_again(session: Session) -> Job:
        job = jobs.require_job_for("retry", session, job_id)
        if job.state in ENDED_JOB:
            admission.require_place(context, session)
        jobs.retry(session, job)
        return job

    request = KeyedRequest.of(key, {"retry": job_id}, context.settings.idempotency_key_s)
    return _queue_once(context, job_id, request, queue_again, render)


def _queue_once(context: Context, job_id: str, request: KeyedRequest | None, act: Act, render: Render) -> Answer:
    """Queue a job again unless the request has an answer already, which does not depend on the user code of today."""
    earlier = None if request is None else find_answer(context.db, request)
    if earlier is not None:
        return earlier
    _require_same_code(context, job_id)
    return answer_once(context.db, request, act, render)


def _require_same_code(context: Context, job_id: str) -> None:
    """Check that the user code of a job that has ended is what it was: its other runs would fail.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The source has changed.
        InvalidSpecError: The code cannot be used any more.

    Cost: tries the code, as a submission does; nothing for jobs without user code.
    """
    with context.db.read() as session:
        job = jobs.require_job(session, job_id)
        has_ended, stored = job.state in ENDED_JOB, job.dataset_info
    sources = {} if stored is None else DatasetInfo.from_json(stored).sources
    if not has_ended or not sources:
        return
    found = find_info(context, JobSpec.from_json(job.spec))
    now = {} if found is None else found.sources
    changed = {entrypoint.partition(":")[0] for entrypoint, sha256 in sources.items() if now.get(entrypoint) != sha256}
    if changed:
        raise ConflictError(
            f"the source of {' and '.join(sorted(changed))} has changed since job {job_id} was submitted: put the old "
            "source back, or submit the job again"
        )


def extended(spec: JobSpec, more: ExtendSpec, settings: Settings) -> JobSpec:
    """Return the spec of a job with trials, seeds or seconds added.

    Raises:
        InvalidSpecError: A sum is over the limit of its field, or earlier trials would be worth
            nothing: they were judged by what other trials of the job set.
    """
    budget, confirm = spec.budget, spec.confirm
    limits = {
        "trials": (budget.trials_per_arm, min(MAX_TRIALS, settings.max_trials or MAX_TRIALS)),
        "seeds": (confirm.seeds, MAX_CONFIRM_SEEDS),
        "max_seconds": (budget.max_seconds, MAX_SECONDS),
    }
    errors = []
    for name, (has, limit) in limits.items():
        if getattr(more, name) > limit - has:
            room = max(0, limit - has)  # the limit may have been lowered
            message = (
                f"must be {f'at most {room:g}' if room else 0}: the job has {has:g} already, and the limit is {limit:g}"
            )
            errors.append(FieldError(name, getattr(more, name), message, code="out_of_range"))
    depends = what_depends_on_other_arms(spec)
    for name in ("trials", "max_seconds"):
        if depends is not None and getattr(more, name):
            hint = f"{depends} depends on the best trial of other arms, which more trials may change."
            errors.append(conflict(name, getattr(more, name), "must be 0 for this job", hint))
    if errors:
        raise InvalidSpecError(*errors)
    trials, seconds = budget.trials_per_arm + more.trials, budget.max_seconds + more.max_seconds
    larger_budget = budget.model_copy(update={"trials_per_arm": trials, "max_seconds": seconds})
    larger_confirm = confirm.model_copy(update={"seeds": confirm.seeds + more.seeds})
    return spec.model_copy(update={"budget": larger_budget, "confirm": larger_confirm})


def _check_it_adds(session: Session, job: Job, larger: JobSpec, more: ExtendSpec) -> None:
    """Refuse trials that an arm has no time for, and an extension after which there is nothing to run.

    Raises:
        InvalidSpecError: Such trials, or such an extension.
        OtherVersionError: Another version of the service stored the job.
    """
    repeats = queries.has_failed_runs(session, job.id)
    if not (more.trials or more.max_seconds):
        if not (more.seeds or repeats):
            raise InvalidSpecError(FieldError("trials", 0, "must be above 0 unless seeds or max_seconds is"))
        return
    plan = plan_of(larger.to_json(), job.dataset_info)
    arms = queries.arm_summaries(session, job.id)
    tried = {row.arm.name: sum(row.counts.values()) for row in arms}
    seconds = {row.arm.name: row.arm.seconds_used for row in arms}
    unfinished = [arm.name for arm in plan.arms if tried.get(arm.name, 0) < plan.trials(arm)]
    if not unfinished:
        if repeats:
            return
        field, hint = ("trials", None) if more.trials else ("max_seconds", "Add trials as well.")
        raise InvalidSpecError(
            conflict(field, getattr(more, field), "adds nothing: every arm has done its trials", hint)
        )
    used, arm = max((seconds.get(name, 0.0), name) for name in unfinished)
    if used >= larger.budget.max_seconds:
        had = larger.budget.max_seconds - more.max_seconds
        message = f"must be above {used - had:.3g}: arm {arm} has used {used:.3g} of its {had:g} seconds"
        hint = "Without time it tries nothing more, and the other arms would get more trials than it."
        raise InvalidSpecError(conflict("max_seconds", more.max_seconds, message, hint))
