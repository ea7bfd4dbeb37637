"""How the search of an arm went: the best so far, which parameters matter, which trials no other beats. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Final

from service.db.models import Trial
from service.planning.arms import ArmPlan
from service.result.job_result import ParetoPoint, TuningPoint
from service.states import ENDED_TRIAL, TrialState

MIN_IMPORTANCE_TRIALS: Final = 4
"""With fewer completed trials, importances are noise."""


def tuning_curve(trials: Sequence[Trial]) -> list[TuningPoint]:
    """Return the best cost so far over ended trials and their training seconds."""
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

    A parameter that only some completed trials have is left out: the evaluator would rank it by those alone.
    """
    complete = [row for row in trials if row.state == TrialState.COMPLETE and row.value is not None]
    if len(complete) < MIN_IMPORTANCE_TRIALS or len({row.value for row in complete}) == 1:
        return {}
    shared = [name for name in complete[0].params if all(name in row.params for row in complete)]
    import optuna  # slow to load, and the API does without it

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
    """Return the completed trials that no other beats in both cost and seconds, the fastest first."""
    front: list[ParetoPoint] = []
    complete = [row for row in trials if row.state == TrialState.COMPLETE and row.value is not None]
    for row in sorted(complete, key=lambda row: (row.seconds, row.value)):
        assert row.value is not None, "trials without a value were left out"
        if not front or row.value < front[-1].value:
            front.append(ParetoPoint(arm=row.arm, trial=row.number, value=row.value, seconds=row.seconds))
    return front
