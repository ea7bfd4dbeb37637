"""Extends a job that has succeeded by trials, seeds or seconds."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.db.models import Job
from service.db.session import Database
from service.errors import FieldError, InvalidSpecError
from service.ledger import jobs
from service.ledger.idempotency import Answer, KeyedRequest, Render, answer_once
from service.planning.arms import MORE_STEPS
from service.spec.job import MAX_CONFIRM_SEEDS, MAX_SECONDS, MAX_TRIALS, ExtendSpec, JobSpec
from service.stored import stored_spec


def extend(db: Database, job_id: str, more: ExtendSpec, render: Render, key: str | None = None) -> Answer:
    """Queue a job that has succeeded again, with a larger spec.

    Args:
        db: The ledger's database.
        job_id: The job.
        more: What to add.
        render: Makes the answer from the row of the job.
        key: The Idempotency-Key; without one, sending again adds again once the job has succeeded.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has not succeeded, its dataset was deleted, or another version stored it.
        InvalidSpecError: With the fields that cannot be added to.
        IdempotencyConflictError: The key was used with another body.
    """

    def queue_again(session: Session) -> Job:
        job = jobs.require_succeeded(session, job_id)
        jobs.queue_again(session, job, extended(stored_spec(job.spec), more), more)
        return job

    request = KeyedRequest.of(key, {"job": job_id, "more": more.model_dump()})
    return answer_once(db, request, queue_again, render)


def extended(spec: JobSpec, more: ExtendSpec) -> JobSpec:
    """Return the spec of a job with trials, seeds or seconds added.

    Raises:
        InvalidSpecError: Nothing is added, a sum is over the limit of its field, or earlier trials would be worth
            nothing: they were judged by what other trials of the job set.
    """
    if not (more.trials or more.seeds or more.max_seconds):
        raise InvalidSpecError(FieldError("trials", 0, "must be above 0, or else seeds or max_seconds must be"))
    budget, confirm = spec.budget, spec.confirm
    trials = budget.trials_per_arm + more.trials
    seeds = confirm.seeds + more.seeds
    seconds = budget.max_seconds + more.max_seconds
    errors = [
        FieldError(
            name,
            getattr(more, name),
            f"must make at most {limit:g} with those that the job has, not {total:g}",
            code="out_of_range",
        )
        for name, total, limit in (
            ("trials", trials, MAX_TRIALS),
            ("seeds", seeds, MAX_CONFIRM_SEEDS),
            ("max_seconds", seconds, MAX_SECONDS),
        )
        if total > limit
    ]
    depends = _what_depends_on_other_arms(spec)
    errors += [
        FieldError(
            name,
            getattr(more, name),
            "must be 0 for this job",
            f"{depends} depends on the best trial of other arms, which more trials may change.",
            "conflict",
        )
        for name in ("trials", "max_seconds")
        if depends is not None and getattr(more, name)
    ]
    if errors:
        raise InvalidSpecError(*errors)
    larger_budget = budget.model_copy(update={"trials_per_arm": trials, "max_seconds": seconds})
    larger_confirm = confirm.model_copy(update={"seeds": seeds})
    return spec.model_copy(update={"budget": larger_budget, "confirm": larger_confirm})


def _what_depends_on_other_arms(spec: JobSpec) -> str | None:
    if spec.objective.target == "baseline":
        return "The target 'baseline'"
    return f"The control {MORE_STEPS}" if MORE_STEPS in spec.controls else None
