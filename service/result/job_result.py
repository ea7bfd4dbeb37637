"""Everything a job ends with, as one type.

The worker writes a :class:`JobResult`, the ledger stores its JSON, and the API, the exports, the report and the command
line read it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from service.errors import OtherVersionError
from service.planning.arms import Role
from service.stored import wrong_fields


class Word(StrEnum):
    """The conclusion about the challenger."""

    HELPS = "helps"
    NO_DIFFERENCE = "no_difference"
    HURTS = "hurts"
    INCONCLUSIVE = "inconclusive"


ANSWERS: Final = {
    Word.HELPS: "Yes, P helps",
    Word.HURTS: "No, P hurts",
    Word.NO_DIFFERENCE: "No, P makes no difference that matters",
    Word.INCONCLUSIVE: "Not clear yet",
}
"""The answer to "does P help?" in plain words."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The comparison of a challenger with a baseline on paired runs. These are losses: lower is better.

    Attributes:
        reason: The conclusion in one sentence.
        improvement: Mean of baseline minus challenger; positive is better.
        relative_improvement: The improvement divided by the baseline's mean; None if that mean is 0.
        interval: 95 % BCa bootstrap interval of the improvement.
        p_helps: One-sided sign-flip permutation p-value for an improvement above 0.
        p_hurts: The same for an improvement below 0.
        alpha: Level of the tests: 0.05 at the first look, half as much at each further one.
        look: How many times the pairs of this comparison have been judged, including this time.
        more_pairs: Further pairs that would settle an ``inconclusive`` comparison at the next look, four times in five.
            None if it is settled, or if even ``MOST_PAIRS`` pairs would not be enough.
        win_rate: Share of the pairs on which the challenger is better; a tie counts as half. It estimates the
            probability that a run with the challenger beats one without.
    """

    word: Word
    reason: str
    pairs: int
    baseline_mean: float
    challenger_mean: float
    improvement: float
    relative_improvement: float | None
    interval: tuple[float, float]
    p_helps: float
    p_hurts: float
    alpha: float
    look: int
    more_pairs: int | None
    win_rate: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm against another on one metric, on the fresh seeds; lower is better.

    Attributes:
        pairs: Seeds on which both have a value.
        missed: Runs of either arm that never reached the loss in question. They count as the longest run seen.
        improvement: Mean of the other arm minus this one.
        relative_improvement: The improvement divided by the other arm's mean; None if that mean is 0.
        interval: 95 % BCa bootstrap interval of the improvement.
        p_holm: Two-sided sign-flip p-value, Holm-adjusted over all comparisons of the job.
        win_rate: Share of the seeds on which the arm is better; a tie counts as half.
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


@dataclass(frozen=True, kw_only=True)
class TuningPoint:
    """The best validation cost of an arm after some ended trials, and the seconds of training that these took."""

    trials: int
    seconds: float
    best: float


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How well early losses rank the trials of an arm.

    Attributes:
        trials: Completed trials that were measured.
        rung_step: Step of the first rung, where early losses are read.
        tau: Kendall's rank correlation between the losses there and the final costs; None if it could not be measured.
        trusted: Whether trials may be stopped early because of it.
    """

    arm: str
    trials: int
    rung_step: int
    tau: float | None
    trusted: bool


@dataclass(frozen=True, kw_only=True)
class ArmFinding:
    """How the search of an arm went.

    Attributes:
        tuning_curve: The best cost so far: one point for each ended trial, from the first completed one on.
        importances: Parameter -> share of the variance between good trials and all trials (PED-ANOVA), for the
            parameters that every completed trial has. Empty with fewer than four completed trials, or if all cost the
            same.
        fidelity: How well early losses ranked its trials; None if too few trials ran.
    """

    arm: str
    role: Role
    tuning_curve: list[TuningPoint]
    importances: dict[str, float]
    fidelity: Fidelity | None


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """A completed trial that no other trial beats in both cost and training seconds."""

    arm: str
    trial: int
    value: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """What P saves on an unseen task, and what it cost to learn. Figures are means over the fresh seeds.

    Attributes:
        seeds: Seeds on which both arms completed.
        missed: Runs with P that never reached the baseline's final loss. They count with their full length.
        learning_steps: Steps spent on learning P.
        learning_seconds: Seconds spent on learning P.
        baseline_steps: Steps of the baseline on one task until it first has its final loss.
        challenger_steps: Steps with P until the same loss.
        baseline_seconds: Seconds of the baseline for its steps on one task.
        challenger_seconds: Seconds with P. All tasks of a run train together: one task's share is the total divided by
            their number.
        tasks_in_steps: Tasks after which learning has paid off in steps; None if P saves no steps.
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


@dataclass(frozen=True, kw_only=True)
class FamilyFinding:
    """The family of tasks of a job.

    Attributes:
        made_by: How the rows became tasks.
        tasks: Names of the tasks by part: meta_train, meta_validation, meta_test.
        left_out: Groups with too few rows.
        break_even: Whether learning P pays off; None if no seed completed with both arms.
    """

    made_by: str
    tasks: dict[str, list[str]]
    left_out: list[str]
    break_even: BreakEven | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a job found besides its verdict.

    Attributes:
        comparisons: The recommended comparison on other metrics, the other arms against the same baseline, and the
            challenger of a warm start against its control.
        arms: How each search went.
        pareto: Trials that are best in cost or seconds, of all arms but the controls. Empty unless the job asked for
            both objectives.
        pruning: Whether trials were pruned and why, in one sentence.
        family: The tasks of a job on a family, and whether learning P pays off; None for a job on one task.
    """

    note: str
    comparisons: list[Comparison]
    arms: list[ArmFinding]
    pareto: list[ParetoPoint]
    pruning: str
    family: FamilyFinding | None = None


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """The best config of an arm, and how it did on the fresh seeds.

    Attributes:
        value: The cost that the search minimised. The trial was picked for it, so it is optimistic.
        mean_test_loss: Mean over its completed confirmation runs; None if none completed.
        mean_seconds: Mean training time of those runs.
        runs: Confirmation runs that completed.
        planned: Confirmation runs that were planned.
    """

    arm: str
    trial: int
    config: dict[str, JsonValue]
    value: float
    mean_test_loss: float | None
    mean_seconds: float | None
    runs: int
    planned: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What both arms cost on one seed; None where the run did not complete.

    Attributes:
        baseline: Cost of the baseline: the test loss, or what the objective asks for instead.
        warpadam: Cost of the challenger.
        missed: Arms that did not reach the target. They count as the longest run, which favours them.
    """

    seed: int
    baseline: float | None
    warpadam: float | None
    baseline_test_loss: float | None
    warpadam_test_loss: float | None
    missed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LearnedP:
    """The P that the recommended config learned, and how a run that starts from it ends.

    Attributes:
        file: Name of the artifact.
        sha256: Its hash.
        seed: Seed of the run that learned P, and of the run that started from it.
        test_loss: Test loss of the run that started from it. It does not affect the verdict.
        data_sha256: With a family: hash of the split of the one task that this run trained on.
    """

    file: str
    sha256: str
    seed: int
    test_loss: float | None
    data_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class WarmStartOutcome:
    """The P that a job started from, and whether it transfers.

    Attributes:
        sha256: Hash of the file of its P.
        transfer: Whether runs from that P end better than runs from the same P in wrong coordinates; None if too few
            seeds completed with both.
        reason: The same in one sentence.
    """

    job: str
    sha256: str
    transfer: bool | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to use, and why.

    Attributes:
        verdict: Whether P helps on this task.
        reason: The verdict in one sentence.
        arm: The recommended arm: one that learns P only if it helps, otherwise the best baseline.
        challenger: The arm that learns P; if there are several, the best one by validation.
        baseline: The baseline it was compared with: the best one by validation.
        statistics: The comparison; None if too few pairs completed.
        pairs: The losses that were compared, one pair for each seed.
        finalists: The best config of every arm.
    """

    verdict: Word
    reason: str
    arm: str
    trial: int
    config: dict[str, JsonValue]
    challenger: str
    baseline: str
    statistics: Verdict | None
    pairs: list[Pair]
    finalists: list[ArmResult]


@dataclass(frozen=True, kw_only=True)
class JobResult(Recommendation):
    """A recommendation with everything else that the job found.

    Attributes:
        findings: Other arms and metrics, and how the search went.
        learned_p: The learned P; None if the recommended optimizer has none that was kept.
        warm_start: Whether the P that the job started from transfers; None for a job without a warm start.
        made_with: Versions of the worker that wrote the result.
    """

    job_id: str
    findings: Findings
    learned_p: LearnedP | None
    warm_start: WarmStartOutcome | None
    made_with: dict[str, str]

    def to_json(self) -> dict[str, JsonValue]:
        """Return the result as plain JSON values."""
        plain: dict[str, JsonValue] = _adapter().dump_python(self, mode="json")
        return plain

    @classmethod
    def from_json(cls, stored: object) -> JobResult:
        """Return a result from its JSON. Fields that this version does not know are left out.

        Raises:
            OtherVersionError: Another version of the service stored something that this one cannot read.
        """
        try:
            return _adapter().validate_python(stored)
        except ValidationError as error:
            raise OtherVersionError("the job's recommendation", wrong_fields(error)) from error


@cache
def _adapter() -> TypeAdapter[JobResult]:
    return TypeAdapter(JobResult)
