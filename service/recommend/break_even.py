# What a job on a family of tasks says beside its verdict: which tasks were for what, and after how many further tasks
# the cost of learning P is repaid. Descriptive and pure, from the curves on tasks that no trial saw; see findings.py.
"""The break-even of learning P."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from service.db.models import ConfirmRun, Trial
from service.planning.objective import time_to
from service.planning.plan import JobPlan
from service.recommend.recommendation import curve_of
from service.states import TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """What P saves on a task that it has not seen, against what it cost to learn; means over the fresh seeds.

    Attributes:
        seeds: Seeds on which both arms completed.
        missed: Of those, how many runs with P never had the loss that the baseline ends with; they count whole.
        learning_steps: Steps that P was learned in.
        learning_seconds: Seconds that it took.
        baseline_steps: Steps of the baseline on one task until it first has the loss that it ends with.
        challenger_steps: Steps with P until the same loss.
        baseline_seconds: Seconds of the baseline for its steps on one task.
        challenger_seconds: Seconds with P. Networks train side by side: one's seconds are those of all by their number.
        tasks_in_steps: Tasks after which learning is repaid in steps; None if P saves none.
        tasks_in_seconds: The same in seconds.
        summary: The same in one sentence.
    """

    seeds: int
    missed: int
    learning_steps: int
    learning_seconds: float
    baseline_steps: float
    challenger_steps: float
    baseline_seconds: float
    challenger_seconds: float
    tasks_in_steps: int | None
    tasks_in_seconds: int | None
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFinding:
    """The family of a job.

    Attributes:
        made_by: How the rows became tasks.
        tasks: Names of the tasks by part: meta_train, meta_validation, meta_test.
        left_out: Groups with too few rows.
        break_even: Whether learning P pays; None if no seed completed with both arms.
    """

    made_by: str
    tasks: Mapping[str, list[str]]
    left_out: list[str]
    break_even: BreakEven | None


def find_break_even(
    plan: JobPlan, baseline: Trial, challenger: Trial, runs: Sequence[ConfirmRun], tasks: int
) -> BreakEven | None:
    """Return when P has repaid its learning, or None without a seed that both arms completed.

    Args:
        plan: The plan of a job with a family.
        baseline: The finalist without P.
        challenger: The finalist that learns P.
        runs: Every run of the ``confirm`` phase.
        tasks: Tasks that such a run trains on.
    """
    assert plan.spec.family is not None, "only called for a family"
    complete = [
        {run.seed: curve_of(run) for run in runs if run.trial_number == trial.number and _complete(run)}
        for trial in (baseline, challenger)
    ]
    both = [(complete[0][seed], complete[1][seed]) for seed in sorted(complete[0].keys() & complete[1].keys())]
    both = [(base, warp) for base, warp in both if base and warp]
    if not both:
        return None
    times: dict[str, tuple[float, float]] = {}
    missed = 0
    for metric, end in (("steps_to_target", "step"), ("seconds_to_target", "seconds")):
        base = fmean(time_to(one, one[-1].val_loss, metric) or 0.0 for one, _ in both)
        found = [time_to(warp, one[-1].val_loss, metric) for one, warp in both]
        missed = found.count(None)
        warp = [getattr(one[1][-1], end) if time is None else time for time, one in zip(found, both, strict=True)]
        times[end] = (base, fmean(warp))
    steps = plan.spec.family.learn_tasks * plan.spec.family.learn_steps
    seconds = fmean(warp[-1].learning_seconds for _, warp in both)
    seconds_of_one = (times["seconds"][0] / tasks, times["seconds"][1] / tasks)
    in_steps, in_seconds = _repaid(steps, *times["step"]), _repaid(seconds, *seconds_of_one)
    return BreakEven(
        seeds=len(both),
        missed=missed,
        learning_steps=steps,
        learning_seconds=seconds,
        baseline_steps=times["step"][0],
        challenger_steps=times["step"][1],
        baseline_seconds=seconds_of_one[0],
        challenger_seconds=seconds_of_one[1],
        tasks_in_steps=in_steps,
        tasks_in_seconds=in_seconds,
        summary=_summary(steps, times["step"], in_steps, in_seconds),
    )


def _complete(run: ConfirmRun) -> bool:
    return run.state == TrialState.COMPLETE


def _repaid(cost: float, without: float, with_p: float) -> int | None:
    return math.ceil(cost / (without - with_p)) if without > with_p else None


def _summary(cost: int, steps: tuple[float, float], in_steps: int | None, in_seconds: int | None) -> str:
    repaid = [
        f"never in {unit}, as none are saved" if tasks is None else f"after {tasks} tasks in {unit}"
        for tasks, unit in ((in_steps, "steps"), (in_seconds, "seconds"))
    ]
    return (
        f"on unseen tasks P needs {steps[1]:.1f} steps to the loss that the baseline has after {steps[0]:.1f}; the "
        f"{cost} steps of learning it are repaid {repaid[0]}, {repaid[1]}"
    )
