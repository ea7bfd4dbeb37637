# What a job recommends, and the figures behind it. Pure: trials and confirmation runs in, one Recommendation out; it is
# stored as JSON by the ledger and shown as it is by the API, the command line and the exports.
"""The recommendation of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, NamedTuple

from service.arms import Role
from service.db.models import ConfirmRun, Trial
from service.errors import JobFailedError
from service.plan import JobPlan
from service.recommend.verdict import Verdict, Word, compare
from service.states import TrialState


class Finalist(NamedTuple):
    """The trial that stands for its arm, and the validation loss that it was picked for."""

    trial: Trial
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """The best config of an arm, and how it did on the fresh seeds.

    Attributes:
        arm: Name of the arm.
        trial: Number of its trial.
        config: Hyper-parameters of the optimizer.
        val_loss: Validation loss of the trial, which is what it was picked for: optimistic.
        mean_test_loss: Mean over its confirmation runs that completed; None if none did.
        mean_seconds: Mean training time of those runs.
        runs: How many of the planned runs completed.
        planned: How many were planned.
    """

    arm: str
    trial: int
    config: dict[str, Any]
    val_loss: float
    mean_test_loss: float | None
    mean_seconds: float | None
    runs: int
    planned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The test losses of both arms on one seed; None where the run did not complete."""

    seed: int
    baseline: float | None
    warpadam: float | None


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


MIN_PAIRS = 6
"""Fewer pairs can hardly be significant: five that all agree have a one-sided p of 0.03, four 0.06."""


def best_trials(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Return the ``count`` completed trials with the lowest validation loss, best first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return sorted(complete, key=lambda trial: (trial.value, trial.number))[:count]


def select(contenders: Sequence[Trial], runs: Sequence[ConfirmRun]) -> Finalist:
    """Return the trial of one arm with the lowest mean validation loss over the selection runs.

    Trials that completed fewer runs than others come after them: a run that diverged is not missing by chance.

    Raises:
        JobFailedError: No trial completed any run.
    """
    ranked: list[tuple[int, float, int, Trial]] = []
    for trial in contenders:
        mine = [run for run in runs if run.trial_number == trial.number]
        losses = [run.val_loss for run in mine if run.state == TrialState.COMPLETE and run.val_loss is not None]
        if losses:
            ranked.append((len(mine) - len(losses), fmean(losses), trial.number, trial))
    if not ranked:
        raise JobFailedError(f"arm {contenders[0].arm}: none of its best trials completed a selection run")
    _, mean, _, trial = min(ranked)
    return Finalist(trial, mean)


def recommend(plan: JobPlan, finalists: Sequence[Finalist], runs: Sequence[ConfirmRun]) -> Recommendation:
    """Judge the arms' finalists by their confirmation runs.

    Args:
        plan: The job's plan.
        finalists: One for each arm.
        runs: Every run of the ``confirm`` phase.
    """
    by_arm = {finalist.trial.arm: finalist.trial for finalist in finalists}
    challenger, baseline = (_best_of(plan, finalists, role).trial for role in (Role.WARPADAM, Role.BASELINE))
    pairs = _pairs(runs, baseline, challenger)
    verdict, reason, statistics = _judge(pairs, plan.spec.confirm.min_effect)
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


def _judge(pairs: Sequence[Pair], min_effect: float) -> tuple[Word, str, Verdict | None]:
    whole = [(p.baseline, p.warpadam) for p in pairs if p.baseline is not None and p.warpadam is not None]
    missing = len(pairs) - len(whole)
    if len(whole) < MIN_PAIRS:
        return Word.INCONCLUSIVE, f"only {len(whole)} of {len(pairs)} pairs completed, {MIN_PAIRS} are needed", None
    statistics = compare([base for base, _ in whole], [warp for _, warp in whole], min_effect)
    if missing:  # a run that diverged is not missing by chance: without it the rest looks better than it is
        return Word.INCONCLUSIVE, f"{missing} of {len(pairs)} pairs did not complete", statistics
    return statistics.word, statistics.reason, statistics


def _best_of(plan: JobPlan, finalists: Sequence[Finalist], role: Role) -> Finalist:
    mine = [finalist for finalist in finalists if plan.arm(finalist.trial.arm).role is role]
    return min(mine, key=lambda finalist: (finalist.score, finalist.trial.number))


def _pairs(runs: Sequence[ConfirmRun], baseline: Trial, challenger: Trial) -> list[Pair]:
    losses = {(run.trial_number, run.seed): run.test_loss for run in runs if run.state == TrialState.COMPLETE}
    return [
        Pair(
            seed=seed,
            baseline=losses.get((baseline.number, seed)),
            warpadam=losses.get((challenger.number, seed)),
        )
        for seed in sorted({run.seed for run in runs})
    ]


def _arm_result(plan: JobPlan, trial: Trial, runs: Sequence[ConfirmRun]) -> ArmResult:
    mine = [run for run in runs if run.trial_number == trial.number]
    complete = [run for run in mine if run.state == TrialState.COMPLETE]
    losses = [run.test_loss for run in complete if run.test_loss is not None]
    assert trial.value is not None, "a finalist is a completed trial"
    return ArmResult(
        arm=trial.arm,
        trial=trial.number,
        config=plan.arm(trial.arm).config(trial.params),
        val_loss=trial.value,
        mean_test_loss=fmean(losses) if losses else None,
        mean_seconds=fmean(run.seconds for run in complete) if complete else None,
        runs=len(complete),
        planned=len(mine),
    )
