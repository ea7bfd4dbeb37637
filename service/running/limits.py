"""What the arms before an arm decide about it: its steps, its target, and whether its trials may be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.db.models import Trial
from service.planning.arms import MORE_STEPS, REFERENCE, ArmPlan, Role
from service.planning.objective import Objective, make_objective
from service.recommend.fidelity import UNPRUNED, measure
from service.recommend.findings import Searched
from service.recommend.recommendation import best_trials
from service.result.findings import Fidelity
from service.running.context import JobContext
from service.running.finalists import best_of_arm
from service.running.samplers import first_rung
from service.spec.job import MAX_STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmLimits:
    """What earlier arms decide about an arm.

    Attributes:
        steps: Steps of its runs.
        target: Validation loss to reach, if that is the baseline's; None before there is one.
        pruning: Whether its trials may be stopped early, judged by earlier arms.
    """

    steps: int
    target: float | None = None
    pruning: bool = True


def limits_of(job: JobContext, arm: ArmPlan, before: Sequence[Searched]) -> ArmLimits:
    """Return what the arms that were searched before an arm decide about it."""
    return ArmLimits(
        steps=_more_steps(job) if arm.name == MORE_STEPS else job.plan.spec.budget.steps,
        target=None if arm.name == REFERENCE else _target(job),
        pruning=all(item.fidelity is None or item.fidelity.trusted for item in before),
    )


def _target(job: JobContext) -> float | None:
    """Return the loss that the tuned AdamW ends with, if that is the target."""
    return best_of_arm(job, REFERENCE, 1)[0].value if job.plan.spec.objective.target == "baseline" else None


def _more_steps(job: JobContext) -> int:
    """Return the steps that AdamW can do in the seconds of WarpAdam's best trial."""
    learned = [best_of_arm(job, arm.name, 1)[0] for arm in job.plan.arms if arm.role is Role.WARPADAM]
    ratio = best_trials(learned, 1)[0].seconds / max(best_of_arm(job, REFERENCE, 1)[0].seconds, 1e-9)
    steps = job.plan.spec.budget.steps
    return min(MAX_STEPS, max(steps, round(steps * ratio)))


def final_objective(job: JobContext) -> Objective:
    """Return what the finalists are judged by."""
    return objective_of(job, ArmLimits(steps=job.plan.spec.budget.steps, target=_target(job)))


def objective_of(job: JobContext, limits: ArmLimits) -> Objective:
    """Return what an arm's trials are judged by."""
    spec = job.plan.spec
    return make_objective(spec.objective, limits.steps, spec.budget.max_seconds, limits.target)


def arm_fidelity(job: JobContext, arm: ArmPlan, limits: ArmLimits, rows: Sequence[Trial]) -> Fidelity | None:
    """Return how well early losses rank the trials of an arm.

    None while its first trials have not ended, and for a job with two objectives, which has no pruner.
    """
    if job.plan.spec.objective.trade_off:
        return None
    curves = job.record.curves([row.id for row in rows[:UNPRUNED]]) if len(rows) >= UNPRUNED else {}
    return measure(arm.name, rows, curves, objective_of(job, limits), first_rung(limits.steps))
