# What a job recommends, and the figures behind it. Pure: trials and confirmation runs in, one Recommendation out; it is
# stored as JSON by the ledger and shown as it is by the API, the command line and the exports.
"""The recommendation of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Final, NamedTuple

from service.db.models import ConfirmRun, Trial
from service.errors import JobFailedError
from service.planning.arms import Role
from service.planning.objective import Objective
from service.planning.plan import JobPlan
from service.recommend.verdict import Verdict, Word, compare
from service.spec.metrics import METRICS
from service.states import TrialState
from service.training.run import Progress


class Finalist(NamedTuple):
    """The trial that stands for its arm, and the cost on validation that it was picked for."""

    trial: Trial
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """The best config of an arm, and how it did on the fresh seeds.

    Attributes:
        arm: Name of the arm.
        trial: Number of its trial.
        config: Hyper-parameters of the optimizer.
        value: What the search minimised, which is what the trial was picked for: optimistic.
        mean_test_loss: Mean over its confirmation runs that completed; None if none did.
        mean_seconds: Mean training time of those runs.
        runs: How many of the planned runs completed.
        planned: How many were planned.
    """

    arm: str
    trial: int
    config: dict[str, Any]
    value: float
    mean_test_loss: float | None
    mean_seconds: float | None
    runs: int
    planned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What both arms cost on one seed; None where the run did not complete.

    Attributes:
        seed: The seed.
        baseline: Cost of the baseline: the test loss, or what else the objective asks for.
        warpadam: Cost of the challenger.
        baseline_test_loss: Test loss of the baseline, whatever the objective.
        warpadam_test_loss: Test loss of the challenger.
        missed: The arms that did not reach the target; they are put at the longest run, which favours them.
    """

    seed: int
    baseline: float | None
    warpadam: float | None
    baseline_test_loss: float | None = None
    warpadam_test_loss: float | None = None
    missed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to use, and why.

    Attributes:
        verdict: Whether P helps on this task.
        reason: The verdict in one sentence.
        arm: The arm that is recommended: one that learns P only if it helps, otherwise the best baseline.
        trial: Number of the recommended trial.
        config: Hyper-parameters of the recommended optimizer.
        challenger: The arm that learns P, the best by validation if there are several.
        baseline: The baseline that it was compared with: the best by validation.
        statistics: The comparison; None when too few pairs completed.
        pairs: The losses that were compared, one pair a seed.
        finalists: Every arm's best.
    """

    verdict: Word
    reason: str
    arm: str
    trial: int
    config: dict[str, Any]
    challenger: str
    baseline: str
    statistics: Verdict | None
    pairs: list[Pair]
    finalists: list[ArmResult]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


NOUNS: Final = {
    "val_loss": "test loss",
    **{metric.field: metric.noun for metric in METRICS.values()},
    "seconds_to_target": "time to the target",
    "steps_to_target": "number of steps to the target",
}
"""Metric -> what is compared on the fresh seeds."""

MIN_PAIRS: Final = 6
"""Fewer pairs can hardly be significant: five that all agree have a one-sided p of 0.03, four 0.06."""


def best_trials(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Return the ``count`` completed trials with the lowest cost on validation, best first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return sorted(complete, key=lambda trial: (trial.value, trial.number))[:count]


def select(contenders: Sequence[Trial], runs: Sequence[ConfirmRun], objective: Objective) -> Finalist:
    """Return the trial of one arm with the lowest mean cost on validation over the selection runs.

    Trials that completed fewer runs than others come after them: a run that diverged is not missing by chance.

    Raises:
        JobFailedError: No trial completed any run.
    """
    ranked: list[tuple[int, float, int, Trial]] = []
    for trial in contenders:
        mine = [run for run in runs if run.trial_number == trial.number]
        complete = [objective.cost(curve_of(run)) for run in mine if run.state == TrialState.COMPLETE]
        costs = [cost for cost in complete if cost is not None]
        if costs:
            ranked.append((len(mine) - len(costs), fmean(costs), trial.number, trial))
    if not ranked:
        raise JobFailedError(f"arm {contenders[0].arm}: none of its best trials completed a selection run")
    _, mean, _, trial = min(ranked)
    return Finalist(trial, mean)


def recommend(
    plan: JobPlan, finalists: Sequence[Finalist], runs: Sequence[ConfirmRun], objective: Objective, look: int = 1
) -> Recommendation:
    """Judge the arms' finalists by their confirmation runs.

    Args:
        plan: The job's plan.
        finalists: One for each arm.
        runs: Every run of the ``confirm`` phase.
        objective: What they are judged by.
        look: How many times they have been judged, this time included.
    """
    by_arm = {finalist.trial.arm: finalist.trial for finalist in finalists}
    challenger, baseline = (_best_of(plan, finalists, role).trial for role in (Role.WARPADAM, Role.BASELINE))
    pairs = pairs_of(runs, baseline, challenger, objective)
    verdict, reason, statistics = _judge(pairs, plan.spec.confirm.min_effect, look, NOUNS[objective.metric])
    chosen = challenger if verdict == Word.HELPS else baseline
    if verdict != Word.HELPS:
        reason += f"; the recommendation is {baseline.arm}"
    return Recommendation(
        verdict=verdict,
        reason=reason,
        arm=chosen.arm,
        trial=chosen.number,
        config=plan.arm(chosen.arm).config(chosen.params),
        challenger=challenger.arm,
        baseline=baseline.arm,
        statistics=statistics,
        pairs=pairs,
        finalists=[_arm_result(plan, by_arm[arm.name], runs) for arm in plan.arms],
    )


def _judge(pairs: Sequence[Pair], min_effect: float, look: int, noun: str) -> tuple[Word, str, Verdict | None]:
    whole = [(p.baseline, p.warpadam) for p in pairs if p.baseline is not None and p.warpadam is not None]
    missing = len(pairs) - len(whole)
    if len(whole) < MIN_PAIRS:
        return Word.INCONCLUSIVE, f"only {len(whole)} of {len(pairs)} pairs completed, {MIN_PAIRS} are needed", None
    baseline, warpadam = ([pair[side] for pair in whole] for side in (0, 1))
    statistics = compare(baseline, warpadam, min_effect, look=look, noun=noun)
    if missing:  # a run that diverged is not missing by chance: without it the rest looks better than it is
        return Word.INCONCLUSIVE, f"{missing} of {len(pairs)} pairs did not complete", statistics
    return statistics.word, statistics.reason, statistics


def curve_of(run: ConfirmRun) -> list[Progress]:
    """Return the learning curve of a confirmation run."""
    return [
        Progress(
            int(s or 0), t or 0.0, v or 0.0, seconds or 0.0, None, score, None, learning[0] or 0.0 if learning else 0.0
        )
        for s, t, v, seconds, score, *learning in run.curve
    ]


def judged_cost(run: ConfirmRun, objective: Objective) -> float | None:
    """Return what a completed run costs on the test part; the time to a target, None if missed, is on validation."""
    if objective.is_timed:
        return objective.reached(curve_of(run))
    if objective.score is not None:
        return None if run.test_score is None else objective.score.cost(run.test_score)
    return run.test_loss


def pairs_of(runs: Sequence[ConfirmRun], baseline: Trial, challenger: Trial, objective: Objective) -> list[Pair]:
    """Return the runs of two trials, seed by seed; one that missed the target is put at the longest of them all."""
    numbers = (baseline.number, challenger.number)
    complete = {
        (run.trial_number, run.seed): run
        for run in runs
        if run.state == TrialState.COMPLETE and run.trial_number in numbers
    }
    longest = max((_length(run, objective) for run in complete.values()), default=0.0) if objective.is_timed else None
    pairs = []
    for seed in sorted({run.seed for run in runs if run.trial_number in numbers}):
        both = [complete.get((number, seed)) for number in numbers]
        costs = [None if run is None else judged_cost(run, objective) for run in both]
        missed = [run is not None and cost is None for run, cost in zip(both, costs, strict=True)]
        pair = [longest if late else cost for late, cost in zip(missed, costs, strict=True)]
        losses = [None if run is None else run.test_loss for run in both]
        late_arms = tuple(arm for arm, late in zip((baseline.arm, challenger.arm), missed, strict=True) if late)
        pairs.append(
            Pair(
                seed=seed,
                baseline=pair[0],
                warpadam=pair[1],
                baseline_test_loss=losses[0],
                warpadam_test_loss=losses[1],
                missed=late_arms,
            )
        )
    return pairs


def _length(run: ConfirmRun, objective: Objective) -> float:
    curve = curve_of(run)
    if not curve:
        return 0.0
    return float(curve[-1].step) if objective.metric == "steps_to_target" else curve[-1].seconds


def _best_of(plan: JobPlan, finalists: Sequence[Finalist], role: Role) -> Finalist:
    mine = [finalist for finalist in finalists if plan.arm(finalist.trial.arm).role is role]
    return min(mine, key=lambda finalist: (finalist.score, finalist.trial.number))


def _arm_result(plan: JobPlan, trial: Trial, runs: Sequence[ConfirmRun]) -> ArmResult:
    mine = [run for run in runs if run.trial_number == trial.number]
    complete = [run for run in mine if run.state == TrialState.COMPLETE]
    losses = [run.test_loss for run in complete if run.test_loss is not None]
    assert trial.value is not None, "a finalist is a completed trial"
    return ArmResult(
        arm=trial.arm,
        trial=trial.number,
        config=plan.arm(trial.arm).config(trial.params),
        value=trial.value,
        mean_test_loss=fmean(losses) if losses else None,
        mean_seconds=fmean(run.seconds for run in complete) if complete else None,
        runs=len(complete),
        planned=len(mine),
    )
