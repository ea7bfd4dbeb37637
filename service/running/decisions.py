"""What follows from the ledger: the limits of an arm, its best trials, the finalists, the result of the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.db.models import ConfirmRun, Trial
from service.errors import JobFailedError
from service.planning.arms import MORE_STEPS, REFERENCE, ArmPlan, Role
from service.planning.objective import Objective, make_objective, or_worst
from service.planning.plan import JobPlan
from service.recommend.fidelity import UNPRUNED, measure
from service.recommend.findings import Searched, find_break_even, find_transfer, make_findings
from service.recommend.mixed import about_versions
from service.recommend.recommendation import (
    NO_LUCK,
    Finalist,
    best_trials,
    edge_of_range,
    find_trivial,
    recommend,
    search_luck,
    why_blind,
)
from service.result.job_result import FamilyFinding, Fidelity, JobResult, Recommendation
from service.running.context import JobContext
from service.running.samplers import first_rung
from service.spec.job import MAX_STEPS
from service.spec.tasks import Task

if TYPE_CHECKING:
    from service.data.families import FamilySummary


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmLimits:
    """What earlier arms decide about an arm.

    Attributes:
        steps: Steps of its runs.
        target: Validation loss to reach, if that is the baseline's; None before there is one.
        pruning: Whether its trials may be stopped early, judged by earlier arms.
        if_stopped: Trials that the arm still gets when the job is stopped.
    """

    steps: int
    target: float | None = None
    pruning: bool = True
    if_stopped: int = 1


def limits_of(job: JobContext, arm: ArmPlan, before: Sequence[Searched]) -> ArmLimits:
    """Return what the arms that were searched before an arm decide about it."""
    return ArmLimits(
        steps=_more_steps(job) if arm.name == MORE_STEPS else job.plan.spec.budget.steps,
        target=None if arm.name == REFERENCE else _target(job),
        pruning=all(item.fidelity is None or item.fidelity.trusted for item in before),
        if_stopped=0 if arm.role is Role.CONTROL else job.record.counted_trials() or 1,
    )


def count_equally(job: JobContext, searched: Sequence[Searched]) -> tuple[list[Searched], tuple[str, ...]]:
    """Return the arms with the trials that count, and notes about that.

    Once a stop has ended the search of an arm early, each arm counts only as many trials, its first ones, so that all
    had the same effort; or a few more, until every arm has one that completed.
    """
    names = {item.arm.name for item in searched}
    left_out = [arm.name for arm in job.plan.arms if arm.name not in names]
    fewest = job.record.counted_trials()
    cause = job.record.stop_cause() if left_out or fewest is not None else None
    stopped = f"the job was stopped ({cause})" if cause else "the job was stopped"
    notes = [f"{stopped} before it had searched {', '.join(left_out)}, which it leaves out"] if left_out else []
    if fewest is None:
        return list(searched), tuple(notes)
    tuned = [item.trials for item in searched if item.arm.role is not Role.UNTUNED]
    while not all(best_trials(trials[:fewest], 1) for trials in tuned):
        fewest += 1
    trials = "trial" if fewest == 1 else f"{fewest} trials"
    notes.append(f"{stopped}, so each arm counts only its first {trials}")
    return [item._replace(trials=item.trials[:fewest]) for item in searched], tuple(notes)


def best_of_arm(job: JobContext, arm: str, count: int) -> list[Trial]:
    """Return the best completed trials of an arm, at most ``count``.

    Raises:
        JobFailedError: The arm completed none.
    """
    trials = job.record.trials(arm)
    best = best_trials(trials, count)
    if not best:
        counts = ", ".join(f"{n} {state}" for state, n in Counter(str(t.state) for t in trials).items()) or "none"
        causes = [trial.cause for trial in trials if trial.cause]
        last = f"; the last cause: {causes[-1]}" if causes else ""
        raise JobFailedError(f"arm {arm} completed no trial (trials: {counts}){last}")
    return best


def _target(job: JobContext) -> float | None:
    """Return the loss that the tuned AdamW ends with, if that is the target."""
    return best_of_arm(job, REFERENCE, 1)[0].value if job.plan.spec.objective.target == "baseline" else None


def _more_steps(job: JobContext) -> int:
    """Return the steps that AdamW can do in the seconds of WarpAdam's best trial."""
    learned = [best_of_arm(job, arm.name, 1)[0] for arm in job.plan.arms if arm.role is Role.WARPADAM]
    adamw = best_of_arm(job, REFERENCE, 1)[0]  # patience may have ended its run early
    steps = adamw.last_step * best_trials(learned, 1)[0].seconds / max(adamw.seconds, 1e-9)
    return min(MAX_STEPS, max(job.plan.spec.budget.steps, round(steps)))


def final_objective(job: JobContext) -> Objective:
    """Return what the finalists are judged by."""
    return objective_of(job, ArmLimits(steps=job.plan.spec.budget.steps, target=_target(job)))


def objective_of(job: JobContext, limits: ArmLimits) -> Objective:
    """Return what an arm's trials are judged by."""
    spec = job.plan.spec
    return make_objective(
        spec.objective,
        limits.steps,
        spec.budget.max_seconds,
        limits.target,
        at_best=job.plan.best_by is not None,
        part="validation" if job.plan.task == Task.LOOP else "test",
    )


def arm_fidelity(job: JobContext, arm: ArmPlan, limits: ArmLimits, rows: Sequence[Trial]) -> Fidelity | None:
    """Return how well early losses rank the trials of an arm.

    None while its first trials have not ended, and for a job with two objectives, which has no pruner.
    """
    if job.plan.spec.objective.trade_off:
        return None
    curves = job.record.curves([row.id for row in rows[:UNPRUNED]]) if len(rows) >= UNPRUNED else {}
    return measure(arm.name, rows, curves, objective_of(job, limits), first_rung(limits.steps))


def finalists_by_search(job: JobContext, best: list[Trial], objective: Objective) -> list[Finalist]:
    """Return the best trial of each arm as its finalist, with its cost under the job's final objective.

    AdamW's search may have had another one: where AdamW sets the target, its own search had none yet.
    """
    curves = job.record.curves([trial.id for trial in best])
    costs = [objective.cost(curves[trial.id]) for trial in best]
    return [
        Finalist(trial, (trial.value or 0.0) if cost is None else cost, or_worst(trial.val_loss))
        for trial, cost in zip(best, costs, strict=True)
    ]


def make_result(
    job: JobContext,
    finalists: Sequence[Finalist],
    searched: Sequence[Searched],
    objective: Objective,
    family: FamilySummary | None,
) -> JobResult:
    """Judge the finalists, one of each arm, by their confirmation runs. The result has no learned P yet."""
    plan, runs = job.plan, job.record.confirm_runs("confirm")
    races = job.record.confirm_runs("select")
    trials = {item.arm.name: item.trials for item in searched}
    luck = {
        arm: NO_LUCK if plan.arm(arm).space.has_one_point else search_luck(plan, trial, trials[arm], races, objective)
        for arm, trial in {finalist.trial.arm: finalist.trial for finalist in finalists}.items()
    }
    trivial = find_trivial(plan, runs, objective)
    blind = {item.arm.name: why for item in searched if (why := why_blind(item.trials, trivial, objective))}
    edges = {finalist.trial.arm: edge_of_range(plan, finalist.trial) for finalist in finalists}
    recommended = recommend(plan, finalists, runs, objective, job.record.looks(), luck, blind, edges)
    tasks = None if family is None else _family_finding(plan, recommended, finalists, runs, family)
    made = job.record.made_with()
    notes = (*about_versions(made, searched, finalists, [*races, *runs]), *job.notes)
    findings = make_findings(plan, recommended, finalists, searched, runs, objective, tasks, notes)
    return JobResult(
        **vars(recommended),
        job_id=job.record.job_id,
        findings=findings,
        learned_p=None,
        warm_start=find_transfer(plan, findings.comparisons, searched),
        made_with=dict(made.runs.get(("confirm", recommended.trial, min(run.seed for run in runs)), made.worker)),
    )


def _family_finding(
    plan: JobPlan,
    recommended: Recommendation,
    finalists: Sequence[Finalist],
    runs: Sequence[ConfirmRun],
    family: FamilySummary,
) -> FamilyFinding:
    of_arm: dict[str, Trial] = {finalist.trial.arm: finalist.trial for finalist in finalists}
    baseline, challenger = of_arm[recommended.baseline], of_arm[recommended.challenger]
    break_even = find_break_even(plan, baseline, challenger, runs, len(family.tasks["meta_test"]))
    return FamilyFinding(
        made_by=family.made_by, tasks=dict(family.tasks), left_out=family.left_out, break_even=break_even
    )
