"""What a job found besides its verdict. All of it is descriptive: nothing here decides what is recommended."""

from __future__ import annotations

from dataclasses import dataclass

from service.planning.arms import Role


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm against another on one metric, on the fresh seeds; lower is better.

    Attributes:
        arm: The arm.
        against: The arm it is compared with.
        metric: What is compared.
        pairs: Seeds on which both have a value.
        missed: Runs of either arm that never reached the loss in question. They count as the longest run seen.
        mean: Mean of the arm.
        against_mean: Mean of the other arm.
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
    """The best validation cost of an arm after a number of trials.

    Attributes:
        trials: Trials that had ended.
        seconds: Training time of those trials.
        best: The lowest cost so far.
    """

    trials: int
    seconds: float
    best: float


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How well early losses rank the trials of an arm.

    Attributes:
        arm: The arm.
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
        arm: Name of the arm.
        role: Its part in the comparison.
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
        note: How to read the comparisons.
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
