"""After how many further tasks the cost of learning P is repaid.

Descriptive and pure: it reads the curves on tasks that no trial saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from service.db.models import ConfirmRun, Trial
from service.ledger.curves import curve_of
from service.planning.objective import time_to
from service.planning.plan import JobPlan
from service.recommend.runs import completed, length
from service.result.job_result import BreakEven
from service.training.run import Progress

Curves = tuple[Sequence[Progress], Sequence[Progress]]
"""The learning curves of the baseline and of the challenger on one seed."""


def find_break_even(
    plan: JobPlan, baseline: Trial, challenger: Trial, runs: Sequence[ConfirmRun], tasks: int
) -> BreakEven | None:
    """Return when P has repaid its learning; None without a seed that both arms completed.

    Args:
        plan: The plan of a job with a family.
        baseline: The finalist without P.
        challenger: The finalist that learns P.
        runs: Every run of the ``confirm`` phase.
        tasks: Tasks that such a run trains on.
    """
    assert plan.spec.family is not None, "only called for a family"
    base, warp = (completed(runs, trial.number) for trial in (baseline, challenger))
    curves = [(curve_of(base[seed]), curve_of(warp[seed])) for seed in sorted(base.keys() & warp.keys())]
    both = [pair for pair in curves if all(pair)]
    if not both:
        return None
    base_steps, warp_steps, _ = _mean_times(both, "steps_to_target")
    base_seconds, warp_seconds, missed = _mean_times(both, "seconds_to_target")
    learning_steps = plan.spec.family.learn_tasks * plan.spec.family.learn_steps
    learning_seconds = fmean(curve[-1].learning_seconds for _, curve in both)
    in_steps = _repaid(learning_steps, base_steps, warp_steps)
    in_seconds = _repaid(learning_seconds, base_seconds / tasks, warp_seconds / tasks)
    return BreakEven(
        seeds=len(both),
        missed=missed,
        learning_steps=learning_steps,
        learning_seconds=learning_seconds,
        baseline_steps=base_steps,
        challenger_steps=warp_steps,
        baseline_seconds=base_seconds / tasks,
        challenger_seconds=warp_seconds / tasks,
        tasks_in_steps=in_steps,
        tasks_in_seconds=in_seconds,
        summary=_summary(learning_steps, base_steps, warp_steps, in_steps, in_seconds),
    )


def _mean_times(both: Sequence[Curves], metric: str) -> tuple[float, float, int]:
    """Return the mean times of both arms to the baseline's final loss, and how many runs with P never had it."""
    base_times = [time_to(base, base[-1].val_loss, metric) or 0.0 for base, _ in both]
    reached = [time_to(warp, base[-1].val_loss, metric) for base, warp in both]
    warp_times = [length(warp, metric) if time is None else time for time, (_, warp) in zip(reached, both, strict=True)]
    return fmean(base_times), fmean(warp_times), reached.count(None)


def _repaid(cost: float, without: float, with_p: float) -> int | None:
    return math.ceil(cost / (without - with_p)) if without > with_p else None


def _summary(
    learning_steps: int, base_steps: float, warp_steps: float, in_steps: int | None, in_seconds: int | None
) -> str:
    repaid = [
        f"never in {unit}, because P saves none" if tasks is None else f"after {tasks} tasks in {unit}"
        for tasks, unit in ((in_steps, "steps"), (in_seconds, "seconds"))
    ]
    return (
        f"on unseen tasks P needs {warp_steps:.1f} steps to the loss that the baseline has after {base_steps:.1f}; the "
        f"{learning_steps} steps of learning it are repaid {repaid[0]}, {repaid[1]}"
    )
