"""Everything a job ends with, as one type.

The worker writes a :class:`JobResult`, the ledger stores its JSON, and the API, the exports, the report and the command
line read it back.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, JsonValue
from typing_extensions import TypeAliasType

from service.planning.arms import Role
from service.planning.atlas import Similar
from service.spec.base import read_stored

ALPHA: Final = 0.05
"""Level of the one-sided tests at the first look."""


JudgedPart = TypeAliasType("JudgedPart", Literal["test", "validation"])
"""Part of the data that runs on fresh seeds are judged on. Named, so that the schema has it once."""


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


class Part(BaseModel, frozen=True, use_attribute_docstrings=True):
    """Base of the parts of a result."""


class Paired(Part):
    """Two means over paired runs, where lower is better: that of a challenger, and that of what it is compared with."""

    pairs: int
    """Seeds on which both have a value."""
    improvement: float
    """Mean of what the challenger is compared with, minus mean of the challenger; positive is better."""
    relative_improvement: float | None
    """The improvement divided by the mean of what the challenger is compared with; None if that mean is 0."""
    interval: tuple[float, float]
    """95 % BCa bootstrap interval of the improvement."""
    win_rate: float
    """Share of the pairs on which the challenger is better; a tie counts as half. It estimates the probability that a
    run with the challenger beats one without."""


class Verdict(Paired):
    """The comparison of a challenger with a baseline on paired runs. These are losses: lower is better."""

    word: Word
    """The conclusion."""
    baseline_mean: float
    """Mean loss of the baseline."""
    challenger_mean: float
    """Mean loss of the challenger."""
    min_effect: float
    """Smallest effect that matters, as a share of the baseline's mean: `confirm.min_effect` of the spec."""
    p_helps: float
    """One-sided sign-flip permutation p-value for an improvement above 0."""
    p_hurts: float
    """The same for an improvement below 0."""
    luck_interval: tuple[float, float] | None
    """Interval of the improvement, 90 % at the first look, that also counts what the arms would lose if their searches
    had missed their best trials. `helps` and `hurts` need one that leaves out 0. None if no trials raced."""
    luck: float | None
    """How far two searches for the same optimizer would end apart just by luck, as a share of the baseline's mean: a
    larger difference comes by luck in at most one comparison in ten at the first look. `luck_interval` leaves out 0 if
    the improvement is larger. None if no trials raced, or if that mean is 0."""
    alpha: float
    """Level of the tests: 0.05 at the first look, half as much at each further one."""
    look: int
    """How many times the pairs of this comparison have been judged, including this time."""
    more_pairs: int | None
    """Further pairs that would settle an `inconclusive` comparison at the next look, four times in five. None if it is
    settled, if a job cannot have as many, or if more would not help: the luck of the searches stays as it is."""


class Comparison(Paired):
    """One arm (the challenger) against another on one metric, on the fresh seeds; lower is better."""

    arm: str
    """Name of the arm."""
    against: str
    """The arm that it is compared with."""
    metric: str
    """What is compared, such as test_loss; of an accuracy it is `1 - test_accuracy`, as lower is better."""
    missed: int
    """Runs of either arm that never reached the loss in question. They count as the longest run seen."""
    mean: float
    """Mean of the arm."""
    against_mean: float
    """Mean of the other arm."""
    p_holm: float
    """Two-sided sign-flip p-value, Holm-adjusted over all comparisons of the job."""


class TuningPoint(Part):
    """The best validation cost of an arm after some ended trials."""

    trials: int
    """Ended trials so far."""
    seconds: float
    """Seconds of training that they took."""
    best: float
    """The lowest cost among them."""


class Fidelity(Part):
    """How well early losses rank the trials of an arm."""

    arm: str
    """Name of the arm."""
    trials: int
    """Completed trials that were measured."""
    rung_step: int
    """Step of the first rung, where early losses are read."""
    tau: float | None
    """Kendall's rank correlation between the losses there and the final costs; None if it could not be measured."""
    trusted: bool
    """Whether trials may be stopped early because of it."""


class ArmFinding(Part):
    """How the search of an arm went."""

    arm: str
    """Name of the arm."""
    role: Role
    """Whether it learns P, is a baseline, is a control, or is AdamW that nobody tunes."""
    tuning_curve: list[TuningPoint]
    """The best cost so far: one point for each ended trial, from the first completed one on."""
    importances: dict[str, float]
    """Parameter -> share of the variance between good trials and all trials (PED-ANOVA), for the parameters that
    every completed trial has. Empty with fewer than four completed trials, or if all cost the same."""
    fidelity: Fidelity | None
    """How well early losses ranked its trials; None if too few trials ran."""


class ParetoPoint(Part):
    """A completed trial that no other trial beats in both cost and training seconds."""

    arm: str
    """Name of the arm."""
    trial: int
    """Number of the trial."""
    value: float
    """Its validation loss."""
    seconds: float
    """Its seconds of training."""


class BreakEven(Part):
    """What P saves on an unseen task, and what it cost to learn. Figures are means over the fresh seeds."""

    seeds: int
    """Seeds on which both arms completed."""
    missed: int
    """Runs with P that never reached the baseline's final loss. They count with their full length."""
    learning_steps: int
    """Steps spent on learning P."""
    learning_seconds: float
    """Seconds spent on learning P."""
    baseline_steps: float
    """Steps of the baseline on one task until it first has its final loss."""
    challenger_steps: float
    """Steps with P until the same loss."""
    baseline_seconds: float
    """Seconds of the baseline for its steps on one task."""
    challenger_seconds: float
    """Seconds with P. All tasks of a run train together: one task's share is the total divided by their number."""
    tasks_in_steps: int | None
    """Tasks after which learning has paid off in steps; None if P saves no steps."""
    tasks_in_seconds: int | None
    """The same in seconds."""
    summary: str
    """The same in one sentence."""


class FamilyFinding(Part):
    """The family of tasks of a job."""

    made_by: str
    """How the rows became tasks."""
    tasks: dict[str, list[str]]
    """Names of the tasks by part: meta_train, meta_validation, meta_test."""
    left_out: list[str]
    """Groups with too few rows."""
    break_even: BreakEven | None
    """Whether learning P pays off; None if no seed completed with both arms."""


class Findings(Part):
    """What a job found besides its verdict."""

    note: str
    """How to read the p-values of the comparisons."""
    comparisons: list[Comparison]
    """The compared arms on other metrics than that of the verdict, the other tuned arms against the same baseline,
    and the challenger of a warm start against its control."""
    arms: list[ArmFinding]
    """How each search went."""
    pareto: list[ParetoPoint]
    """Trials that are best in cost or seconds, of the arms that learn P and the baselines. Empty unless the job asked
    for both objectives."""
    pruning: str
    """Whether trials were pruned and why, in one sentence."""
    advice: list[str] = []
    """What to change for a better answer, one sentence each."""
    similar: Similar | None = None
    """The jobs of the atlas that are most like this one, and whether P helped there. It does not affect the verdict.
    None for a training loop of the user's."""
    family: FamilyFinding | None = None
    """The tasks of a job on a family, and whether learning P pays off; None for a job on one task."""


class ArmResult(Part):
    """The best config of an arm, and how it did on the fresh seeds."""

    arm: str
    """Name of the arm."""
    trial: int
    """Number of its best trial."""
    config: dict[str, JsonValue]
    """Hyper-parameters of the optimizer in that trial."""
    value: float
    """The cost that the search minimised. The trial was picked for it, so it is optimistic."""
    mean_test_loss: float | None
    """Mean over its completed confirmation runs; None if none completed."""
    test_loss_interval: tuple[float, float] | None = None
    """95 % interval (Student's) of that mean; None with fewer than two runs."""
    mean_test_score: float | None = None
    """Mean of the score, such as the accuracy, over the same runs; None if they have none."""
    test_score_interval: tuple[float, float] | None = None
    """95 % interval (Student's) of that mean; None with fewer than two runs."""
    mean_seconds: float | None
    """Mean training time of those runs."""
    runs: int
    """Confirmation runs that completed."""
    planned: int
    """Confirmation runs that were planned."""
    best_step: float | None = None
    """Step of the point at which these runs are judged, the median over them; None if that is their last step."""


class TrivialResult(Part):
    """What always predicting the same gets, whatever the input. A model that is not better has learned nothing."""

    predicts: str
    """What is always predicted, such as the most frequent class."""
    value: float | None
    """Its cost on the validation part of the search, to compare with trials; None for times to a target."""
    val_loss: float | None
    """Its loss there. It predicts the frequencies of the classes for that, counted on the training part."""
    val_score: float | None
    """Its score there."""
    mean_test_loss: float
    """Mean loss on the test parts of the confirmation runs."""
    mean_test_score: float | None
    """Mean score there; None if it has none."""


class Pair(Part):
    """What both arms cost on one seed; None where the run did not complete."""

    seed: int
    """Seed of both runs."""
    baseline: float | None
    """Cost of the baseline: the test loss, or what the objective asks for instead."""
    warpadam: float | None
    """Cost of the challenger."""
    baseline_test_loss: float | None
    """Test loss of the baseline."""
    warpadam_test_loss: float | None
    """Test loss of the challenger."""
    missed: tuple[str, ...]
    """Arms that did not reach the target. They count as the longest run, which favours them."""


class LearnedP(Part):
    """The P that the recommended config learned, and how a run that starts from it ends."""

    file: str
    """Name of the artifact."""
    sha256: str
    """Its hash."""
    seed: int
    """Seed of the run that learned P, and of the run that started from it."""
    test_loss: float | None
    """Test loss of the run that started from it. It does not affect the verdict."""
    data_sha256: str | None = None
    """With a family: hash of the split of the one task that this run trained on."""


class KeptWeights(Part):
    """The weights of a model that was trained with the recommended config, to score new rows with."""

    file: str
    """Name of the artifact."""
    sha256: str
    """Its hash."""
    preprocessing_sha256: str | None
    """Hash of the artifact that says how rows become features; None if the data has no rows, as a text."""
    seed: int
    """Seed of the confirmation run that trained it: the first one, which runs on the split of the search."""
    test_loss: float
    """Test loss of these weights."""


class WarmStartOutcome(Part):
    """The P that a job started from, and whether it transfers."""

    job: str
    """Job that learned P."""
    sha256: str
    """Hash of the file of its P."""
    transfer: bool | None
    """Whether runs from that P end better than runs from the same P in wrong coordinates; None if too few seeds
    completed with both."""
    reason: str
    """The same in one sentence."""


class Recommendation(Part):
    """What to use, and why."""

    verdict: Word
    """Whether P helps on this task."""
    reason: str
    """The verdict in one sentence."""
    arm: str
    """The recommended arm: one that learns P only if it helps, otherwise the best baseline."""
    trial: int
    """Number of the recommended trial."""
    config: dict[str, JsonValue]
    """Hyper-parameters of the recommended optimizer."""
    challenger: str
    """The arm that learns P; if there are several, the best one by validation."""
    baseline: str
    """The baseline it was compared with: the best one by validation."""
    statistics: Verdict | None
    """The comparison at equal steps; None if too few pairs completed. Its word is the verdict."""
    at_equal_seconds: Verdict | None
    """The comparison at equal training time, which does not change the verdict. In each pair, both runs are read at the
    training seconds of the shorter one, each at its best point until then. It compares costs on validation: the test
    part is only measured once, at the best point of the whole run. None if the objective is a time, or if too few pairs
    have learning curves."""
    pairs: list[Pair]
    """The losses that were compared, one pair for each seed."""
    finalists: list[ArmResult]
    """The best config of every arm; AdamW that nobody tunes is missing if its trial did not complete."""
    trivial: TrivialResult | None = None
    """What always predicting the same gets; None where there is no such thing, as for an equation."""
    metric: str = "val_loss"
    """What trials and finalists were judged by: `objective.metric` of the spec."""
    score: str | None = None
    """Name of the score that runs have beside the loss, such as accuracy; None if they have none."""
    part: JudgedPart = "test"
    """Part of the data that the runs on fresh seeds are judged on. A training loop of your own has validation only: its
    losses are those that it yields, and are called test_loss here, too."""
    summary: str = ""
    """The mean test losses or scores in one sentence, from always predicting the same to P."""


class JobResult(Recommendation):
    """A recommendation with everything else that the job found."""

    job_id: str
    """The job."""
    findings: Findings
    """Other arms and metrics, and how the search went."""
    learned_p: LearnedP | None
    """The learned P; None if the recommended optimizer has none that was kept."""
    weights: KeptWeights | None = None
    """The trained model; None if its run did not complete, and for a family, which has a model for each task."""
    warm_start: WarmStartOutcome | None
    """Whether the P that the job started from transfers; None for a job without a warm start."""
    made_with: dict[str, str]
    """Versions that the first confirmation run of the recommended config was made with: that of `weights`. All other
    runs on fresh seeds were made with the same ones, unless `findings.advice` says otherwise."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, stored: object) -> JobResult:
        """Return a result from its JSON. Fields that this version does not know are left out.

        Raises:
            OtherVersionError: Another version of the service stored something that this one cannot read.
        """
        return read_stored(cls, stored, "the job's recommendation")
