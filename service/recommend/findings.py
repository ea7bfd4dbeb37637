# What a job shows beside its verdict: other arms and metrics, tuning curves, importances, the Pareto front, whether
# pruning could be trusted. Descriptive, all of it: nothing here decides what is recommended. Pure, from ledger rows.
"""Descriptive findings of a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from service.db.models import ConfirmRun, Trial
from service.planning.arms import SHUFFLED_P, ArmPlan, Role
from service.planning.objective import TIMED, Objective, time_to
from service.planning.plan import JobPlan
from service.recommend.break_even import FamilyFinding
from service.recommend.fidelity import Fidelity
from service.recommend.recommendation import MIN_PAIRS, Finalist, Recommendation, curve_of, pairs_of
from service.recommend.tuning import ArmFinding, ParetoPoint, importances, pareto, tuning_curve
from service.recommend.verdict import compare, holm
from service.spec.metrics import ERROR, METRICS
from service.states import TrialState
from service.training.run import Progress

NOTE: Final = (
    "descriptive: chosen neither before the runs nor for this purpose; p-values are two-sided and adjusted after Holm "
    "over all comparisons listed here"
)

JUDGED: Final = {
    "val_loss": "test_loss",
    **{metric.field: metric.compared_as for metric in METRICS.values()},
    **{name: name for name in TIMED},
}
"""Metric of the objective -> what the fresh seeds are compared on; times to a target are on validation."""


class Searched(NamedTuple):
    """An arm with its trials, and how well early losses rank them."""

    arm: ArmPlan
    trials: Sequence[Trial]
    fidelity: Fidelity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An arm against another on one metric, on the fresh seeds; lower is better.

    Attributes:
        arm: The arm.
        against: The arm that it is compared with.
        metric: What is compared.
        pairs: Seeds on which both have a value.
        missed: Runs of either arm that never reached the loss in question, put at the longest run seen.
        mean: Mean of the arm.
        against_mean: Mean of the other.
        improvement: Mean of the other minus the arm.
        relative_improvement: The same, divided by the other's mean; None if that is 0.
        interval: 95 % BCa bootstrap interval of the improvement.
        p_holm: Two-sided sign-flip p-value, adjusted after Holm over all comparisons of the job.
        win_rate: Share of the seeds on which the arm is better, ties counted half: the probability of improvement.
    """

    arm: str
    against: str
    metric: str
    pairs: int
    missed: int
    mean: float
    against_mean: float
    improvement: float
    relative_improvement: float | None
    interval: tuple[float, float]
    p_holm: float
    win_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a job shows beside its verdict.

    Attributes:
        note: How to read the comparisons.
        comparisons: The recommended comparison on other metrics, the other arms against the same baseline, and the
            challenger of a warm start against its control.
        arms: How each search went.
        pareto: Trials of all arms but controls that are best in cost or seconds; empty unless both were objectives.
        pruning: What became of pruning, in one sentence.
        family: The tasks of a job on a family, and whether learning P pays; None for a job on one task.
    """

    note: str
    comparisons: list[Comparison]
    arms: list[ArmFinding]
    pareto: list[ParetoPoint]
    pruning: str
    family: FamilyFinding | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def make_findings(
    plan: JobPlan,
    result: Recommendation,
    finalists: Sequence[Finalist],
    searched: Sequence[Searched],
    runs: Sequence[ConfirmRun],
    objective: Objective,
) -> Findings:
    """Describe a job.

    Args:
        plan: Its plan.
        result: What it recommends.
        finalists: One trial for each arm.
        searched: The arms with their trials.
        runs: Every run of the ``confirm`` phase.
        objective: What they are judged by.
    """
    by_arm = {finalist.trial.arm: finalist.trial for finalist in finalists}
    found = list(_comparisons(by_arm, result, runs, objective))
    adjusted = holm([p for _, p in found])
    return Findings(
        note=NOTE,
        comparisons=[Comparison(**fields, p_holm=p) for (fields, _), p in zip(found, adjusted, strict=True)],
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
        pareto=pareto([row for item in searched if item.arm.role is not Role.CONTROL for row in item.trials])
        if plan.spec.objective.trade_off
        else [],
        pruning=_pruning(plan, searched),
    )


def _comparisons(
    by_arm: dict[str, Trial], result: Recommendation, runs: Sequence[ConfirmRun], objective: Objective
) -> Iterator[tuple[dict[str, Any], float]]:
    baseline, challenger = by_arm[result.baseline], by_arm[result.challenger]
    of_trial = {
        trial.number: {run.seed: run for run in runs if run.trial_number == trial.number and _complete(run)}
        for trial in by_arm.values()
    }
    base_runs, runs_of_challenger = of_trial[baseline.number], of_trial[challenger.number]
    seeds = sorted(base_runs.keys() & runs_of_challenger.keys())
    both = [(base_runs[seed], runs_of_challenger[seed]) for seed in seeds]
    metrics: dict[str, list[tuple[float | None, float | None]]] = {
        "test_loss": [(base.test_loss, warp.test_loss) for base, warp in both],
        objective.score.compared_as if objective.score else ERROR: [
            (_shortfall(base, objective), _shortfall(warp, objective)) for base, warp in both
        ],
        "training_seconds": [(base.seconds, warp.seconds) for base, warp in both],
    }
    names = (result.challenger, result.baseline)
    for metric, pairs in metrics.items():
        yield from _compare(names, metric, pairs, 0)
    for metric in ("steps_to_target", "seconds_to_target"):
        pairs, missed = _times([(curve_of(base), curve_of(warp)) for base, warp in both], metric)
        yield from _compare(names, metric.replace("target", "loss_of_baseline"), pairs, missed)
    for arm, trial in by_arm.items():
        if arm in names:
            continue
        worse, better = (trial, challenger) if arm == SHUFFLED_P else (baseline, trial)
        rows = pairs_of(runs, worse, better, objective)
        costs = [(row.baseline, row.warpadam) for row in rows]
        missed = sum(len(row.missed) for row in rows)
        yield from _compare((better.arm, worse.arm), JUDGED[objective.metric], costs, missed)


def _complete(run: ConfirmRun) -> bool:
    return run.state == TrialState.COMPLETE


def _shortfall(run: ConfirmRun, objective: Objective) -> float | None:
    if run.test_score is None:
        return None
    return objective.score.cost(run.test_score) if objective.score else 1.0 - run.test_score


Curves = tuple[Sequence[Progress], Sequence[Progress]]


def _times(both: Sequence[Curves], metric: str) -> tuple[list[tuple[float | None, float | None]], int]:
    """Return the times until either run has the validation loss that the baseline's ends with, seed by seed."""
    whole = [(base, warp) for base, warp in both if base and warp]
    longest, missed = max((_end(curve, metric) for pair in whole for curve in pair), default=0.0), 0
    times: list[tuple[float | None, float | None]] = []
    for base, warp in whole:
        target = base[-1].val_loss
        found = [time_to(base, target, metric), time_to(warp, target, metric)]
        missed += found.count(None)
        times.append((longest if found[0] is None else found[0], longest if found[1] is None else found[1]))
    return times, missed


def _end(curve: Sequence[Progress], metric: str) -> float:
    return float(curve[-1].step) if metric == "steps_to_target" else curve[-1].seconds


def _compare(
    names: tuple[str, str], metric: str, pairs: Sequence[tuple[float | None, float | None]], missed: int
) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield the figures of a comparison and its raw p-value; nothing if too few pairs are whole."""
    whole = [(base, other) for base, other in pairs if base is not None and other is not None]
    if len(whole) < MIN_PAIRS:
        return
    verdict = compare([base for base, _ in whole], [other for _, other in whole], 0.0)
    fields = {
        "arm": names[0],
        "against": names[1],
        "metric": metric,
        "pairs": verdict.pairs,
        "missed": missed,
        "mean": verdict.challenger_mean,
        "against_mean": verdict.baseline_mean,
        "improvement": verdict.improvement,
        "relative_improvement": verdict.relative_improvement,
        "interval": verdict.interval,
        "win_rate": verdict.win_rate,
    }
    yield fields, min(1.0, 2 * min(verdict.p_helps, verdict.p_hurts))


def _pruning(plan: JobPlan, searched: Sequence[Searched]) -> str:
    if plan.spec.search.pruner == "none":
        return "no trial was pruned: the spec asks for no pruner"
    for item in searched:
        fidelity = item.fidelity
        if fidelity is not None and not fidelity.trusted:
            tau = "could not be measured" if fidelity.tau is None else f"is {fidelity.tau:.2f}, under 0.5"
            return (
                f"pruning was turned off from arm {item.arm.name} on: Kendall's tau between the losses at step "
                f"{fidelity.rung_step} and the final ones {tau}"
            )
    if all(item.fidelity is None for item in searched):
        return "no trial was pruned: the first 8 trials of an arm never are"
    return "pruning was on after the first 8 trials of each arm: early losses rank runs as final ones do"
