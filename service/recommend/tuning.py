# How the search of an arm went, from its trials: the best so far, which parameters matter, which trials no other beats.
# Pure; what is compared on fresh seeds is in findings.py.
"""Tuning curves, importances and the Pareto front."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.db.models import Trial
from service.planning.arms import ArmPlan, Role
from service.recommend.fidelity import Fidelity
from service.states import ENDED_TRIAL, TrialState

MIN_IMPORTANCE_TRIALS: Final = 4
"""Completed trials under which importances are noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningPoint:
    """The best cost on validation after so many trials of an arm, and so many seconds of training."""

    trials: int
    seconds: float
    best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFinding:
    """How the search of an arm went.

    Attributes:
        arm: Name of the arm.
        role: Its part in the comparison.
        tuning_curve: The best so far, a point for each trial that ended after the first that completed.
        importances: Parameter -> share of the variance between good and all trials (PED-ANOVA), of those parameters
            that every completed trial has; empty for less than four completed trials, or if all cost the same.
        fidelity: Whether early losses ranked its trials as final ones did; None if too few trials ran.
    """

    arm: str
    role: Role
    tuning_curve: list[TuningPoint]
    importances: dict[str, float]
    fidelity: Fidelity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """A completed trial that no other beats in both cost and training seconds."""

    arm: str
    trial: int
    value: float
    seconds: float


def tuning_curve(trials: Sequence[Trial]) -> list[TuningPoint]:
    """Return the best cost so far against ended trials and their training seconds."""
    points: list[TuningPoint] = []
    best, seconds = None, 0.0
    for count, row in enumerate((row for row in trials if row.state in ENDED_TRIAL), start=1):
        seconds += row.seconds
        if row.state == TrialState.COMPLETE and row.value is not None:
            best = row.value if best is None else min(best, row.value)
        if best is not None:
            points.append(TuningPoint(trials=count, seconds=seconds, best=best))
    return points


def importances(arm: ArmPlan, trials: Sequence[Trial]) -> dict[str, float]:
    """Return how much each parameter matters, the largest first, by Optuna's default evaluator.

    A parameter that only some completed trials have is left out: the evaluator would rank it by those few.
    """
    complete = [row for row in trials if row.state == TrialState.COMPLETE and row.value is not None]
    if len(complete) < MIN_IMPORTANCE_TRIALS or len({row.value for row in complete}) == 1:
        return {}
    shared = [name for name in complete[0].params if all(name in row.params for row in complete)]
    import optuna  # the API, which shows findings, does not load it

    from search_spaces.to_optuna import distributions

    study = optuna.create_study()
    for row in complete:
        study.add_trial(
            optuna.trial.create_trial(
                value=row.value, params=dict(row.params), distributions=distributions(arm.space, row.params)
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(study, params=shared)
    return {name: float(value) for name, value in found.items()}


def pareto(trials: Sequence[Trial]) -> list[ParetoPoint]:
    """Return the completed trials that no other one beats in both cost and seconds, the fastest first."""
    front: list[ParetoPoint] = []
    complete = [row for row in trials if row.state == TrialState.COMPLETE and row.value is not None]
    for row in sorted(complete, key=lambda row: (row.seconds, row.value)):
        assert row.value is not None, "only those that have one are left"
        if not front or row.value < front[-1].value:
            front.append(ParetoPoint(arm=row.arm, trial=row.number, value=row.value, seconds=row.seconds))
    return front
