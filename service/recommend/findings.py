"""Describes a job besides its verdict: other arms and metrics, tuning curves, importances, the Pareto front, pruning.

Descriptive and pure: nothing here decides what is recommended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from service.db.models import ConfirmRun, Trial
from service.ledger.curves import curve_of
from service.planning.arms import SHUFFLED_P, ArmPlan, Role
from service.planning.objective import TIMED, Objective, time_to
from service.planning.plan import JobPlan
from service.recommend.fidelity import MIN_TAU, UNPRUNED
from service.recommend.recommendation import MIN_PAIRS, Finalist, pairs_of
from service.recommend.runs import completed, error_on_test, length
from service.recommend.tuning import importances, pareto, tuning_curve
from service.recommend.verdict import compare, holm
from service.result.job_result import ArmFinding, Comparison, FamilyFinding, Fidelity, Findings, Recommendation
from service.spec.metrics import ERROR, METRICS
from service.training.run import Progress

NOTE: Final = (
    "descriptive: these comparisons were not planned before the runs; p-values are two-sided and Holm-adjusted over "
    "all comparisons listed here"
)

JUDGED: Final = {
    "val_loss": "test_loss",
    **{metric.field: metric.compared_as for metric in METRICS.values()},
    **{name: name for name in TIMED},
}
"""Metric of the objective -> what the fresh seeds are compared on; times to a target are on validation."""

Values = Sequence[tuple[float | None, float | None]]
"""What the baseline and the challenger have on each seed; None where one has nothing."""


class Searched(NamedTuple):
    """An arm with its trials, and how well early losses rank those."""

    arm: ArmPlan
    trials: Sequence[Trial]
    fidelity: Fidelity | None


def make_findings(
    plan: JobPlan,
    result: Recommendation,
    finalists: Sequence[Finalist],
    searched: Sequence[Searched],
    runs: Sequence[ConfirmRun],
    objective: Objective,
    family: FamilyFinding | None = None,
) -> Findings:
    """Describe a job.

    Args:
        plan: Its plan.
        result: What it recommends.
        finalists: One trial for each arm.
        searched: The arms with their trials.
        runs: Every run of the ``confirm`` phase.
        objective: What they are judged by.
        family: Its tasks; None for a job on one task.
    """
    by_arm = {finalist.trial.arm: finalist.trial for finalist in finalists}
    found = list(_comparisons(by_arm, result, runs, objective))
    adjusted = zip(found, holm([comparison.p_holm for comparison in found]), strict=True)
    rivals = [row for item in searched if item.arm.role is not Role.CONTROL for row in item.trials]
    return Findings(
        note=NOTE,
        comparisons=[comparison.model_copy(update={"p_holm": p}) for comparison, p in adjusted],
        arms=[
            ArmFinding(
                arm=item.arm.name,
                role=item.arm.role,
                tuning_curve=tuning_curve(item.trials),
                importances=importances(item.arm, item.trials),
                fidelity=item.fidelity,
            )
            for item in searched
        ],
        pareto=pareto(rivals) if plan.spec.objective.trade_off else [],
        pruning=_pruning(plan, searched),
        family=family,
    )


def _comparisons(
    by_arm: dict[str, Trial], result: Recommendation, runs: Sequence[ConfirmRun], objective: Objective
) -> Iterator[Comparison]:
    """Yield the comparisons of a job; their p-values are not adjusted yet."""
    baseline, challenger = by_arm[result.baseline], by_arm[result.challenger]
    base_runs, warp_runs = completed(runs, baseline.number), completed(runs, challenger.number)
    both = [(base_runs[seed], warp_runs[seed]) for seed in sorted(base_runs.keys() & warp_runs.keys())]
    names = (challenger.arm, baseline.arm)
    metrics: dict[str, Values] = {
        "test_loss": [(base.test_loss, warp.test_loss) for base, warp in both],
        objective.score.compared_as if objective.score else ERROR: [
            (error_on_test(base, objective), error_on_test(warp, objective)) for base, warp in both
        ],
        "training_seconds": [(base.seconds, warp.seconds) for base, warp in both],
    }
    for metric, values in metrics.items():
        yield from _compare(names, metric, values, 0)
    for metric in ("steps_to_target", "seconds_to_target"):
        values, missed = _times([(curve_of(base), curve_of(warp)) for base, warp in both], metric)
        yield from _compare(names, metric.replace("target", "loss_of_baseline"), values, missed)
    for arm, trial in by_arm.items():
        if arm in names:
            continue
        worse, better = (trial, challenger) if arm == SHUFFLED_P else (baseline, trial)
        pairs = pairs_of(runs, worse, better, objective)
        costs = [(pair.baseline, pair.warpadam) for pair in pairs]
        missed = sum(len(pair.missed) for pair in pairs)
        yield from _compare((better.arm, worse.arm), JUDGED[objective.metric], costs, missed)


def _times(both: Sequence[tuple[Sequence[Progress], Sequence[Progress]]], metric: str) -> tuple[Values, int]:
    """Return the times of both arms to the baseline's final validation loss, and how many runs never reached it.

    Those count as the longest run.
    """
    whole = [(base, warp) for base, warp in both if base and warp]
    longest = max((length(curve, metric) for pair in whole for curve in pair), default=0.0)
    times = [[time_to(curve, base[-1].val_loss, metric) for curve in (base, warp)] for base, warp in whole]
    missed = sum(pair.count(None) for pair in times)
    base_times, warp_times = ([longest if pair[i] is None else pair[i] for pair in times] for i in (0, 1))
    return list(zip(base_times, warp_times, strict=True)), missed


def _compare(names: tuple[str, str], metric: str, values: Values, missed: int) -> Iterator[Comparison]:
    """Yield the comparison with its raw p-value; nothing if too few seeds have both values."""
    whole = [(base, other) for base, other in values if base is not None and other is not None]
    if len(whole) < MIN_PAIRS:
        return
    verdict = compare([base for base, _ in whole], [other for _, other in whole], 0.0)
    yield Comparison(
        arm=names[0],
        against=names[1],
        metric=metric,
        pairs=verdict.pairs,
        missed=missed,
        mean=verdict.challenger_mean,
        against_mean=verdict.baseline_mean,
        improvement=verdict.improvement,
        relative_improvement=verdict.relative_improvement,
        interval=verdict.interval,
        p_holm=min(1.0, 2 * min(verdict.p_helps, verdict.p_hurts)),
        win_rate=verdict.win_rate,
    )


def _pruning(plan: JobPlan, searched: Sequence[Searched]) -> str:
    if plan.spec.search.pruner == "none":
        return "no trial was pruned: the spec asks for no pruner"
    for item in searched:
        fidelity = item.fidelity
        if fidelity is not None and not fidelity.trusted:
            tau = "could not be measured" if fidelity.tau is None else f"{fidelity.tau:.2f}, under {MIN_TAU}"
            return (
                f"pruning was turned off from arm {item.arm.name} on: losses at step {fidelity.rung_step} do not "
                f"predict the final ones well enough (Kendall's tau {tau})"
            )
    if all(item.fidelity is None for item in searched):
        return f"no trial was pruned: the first {UNPRUNED} trials of an arm never are"
    return f"pruning was on after the first {UNPRUNED} trials of each arm: early losses rank runs as final losses do"
