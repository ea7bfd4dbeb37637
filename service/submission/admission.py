"""Decides whether a job may be queued now: limits of the operator, machine, time, disk, and length of the queue.

A job that could never run is refused (InvalidSpecError). One that comes at a bad moment may be sent again.
"""

from __future__ import annotations

import math
from typing import Final

from sqlalchemy.orm import Session

from service.errors import FieldError, InvalidSpecError
from service.ledger import usage
from service.planning.limits import Machine, over_limits, over_machine, too_large_for_this_machine
from service.planning.plan import JobPlan
from service.settings import Settings
from service.spec.models import TransformerSpec
from service.submission import Context
from service.submission.estimate import JobEstimate, estimate, seconds_at

SLOW_STEP_S: Final = 0.05
SLOW_FLOPS: Final = 1e9
"""A step takes no longer than this, and a second more for each that many operations: far slower than any machine."""

FLOPS_A_PARAMETER: Final = 6
"""Operations of a parameter in a step for each row, forward and backward. Source: Kaplan et al. 2020, section 2.1."""


def require_possible(settings: Settings, plan: JobPlan) -> None:
    """Check a job against the limits of the operator and the machine of the workers.

    Raises:
        InvalidSpecError: With the fields that ask for too much.
    """
    if wrong := [*over_limits(plan, settings), *over_machine(plan, Machine.of_workers(settings))]:
        raise InvalidSpecError(*wrong)


def require_time(settings: Settings, plan: JobPlan, measured: JobEstimate | None = None) -> None:
    """Check how long a job would take. Its steps are timed only where a rough estimate could be too long.

    Args:
        settings: Of the operator.
        plan: The job.
        measured: Its estimate, if there is one already.

    Raises:
        InvalidSpecError: It would take too long.
        UnavailableError: Its steps could not be timed.
    """
    limit = settings.max_job_seconds
    if plan.spec.engine.name != "optuna" or plan.spec.resources.gpus_per_trial:
        return  # this machine cannot tell how long it takes there
    if measured is None and (_slow_estimate_s(plan) <= limit or too_large_for_this_machine(plan)):
        return
    seconds = (measured or estimate(plan, settings)).seconds
    if seconds > limit:
        wrong = f"must be lower: the job would take about {_time(seconds)} here, and may take {_time(limit)}"
        hint = "Or give fewer trials, or a smaller model. The setting WARPTUNE_MAX_JOB_SECONDS decides it."
        raise InvalidSpecError(FieldError("budget.steps", plan.spec.budget.steps, wrong, hint, "over_limit"))


def require_place(context: Context, session: Session) -> None:
    """Check that one more job may wait, and that the project may store more, in the transaction that queues the job.

    Raises:
        QueueFullError: As many jobs wait as may.
        QuotaExceededError: The project stores as many bytes as it may.
    """
    usage.require_quota(session, context.db.owner, context.settings.max_project_bytes)
    usage.require_place_in_queue(
        session,
        context.db.owner,
        context.settings.max_queued_jobs,
        context.settings.max_queued_jobs_per_project,
    )


def _slow_estimate_s(plan: JobPlan) -> float:
    """Return the seconds that a job would take on a machine far slower than any."""
    model, info = plan.spec.model, plan.info
    positions = model.context if isinstance(model, TransformerSpec) else math.prod(info.shape[1:])
    rows = min(plan.spec.budget.batch_size, max(1, model.training_rows(info)))
    flops = FLOPS_A_PARAMETER * model.parameter_count(info) * rows * positions
    return seconds_at(plan, SLOW_STEP_S + flops / SLOW_FLOPS)


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
