"""What confirmation runs say: which completed, what they cost, how long they took."""

from __future__ import annotations

from collections.abc import Sequence

from service.db.models import ConfirmRun
from service.ledger.curves import curve_of
from service.planning.objective import Objective
from service.states import TrialState
from service.training.run import Progress


def completed(runs: Sequence[ConfirmRun], trial: int) -> dict[int, ConfirmRun]:
    """Return the completed runs of a trial, by seed."""
    return {run.seed: run for run in runs if run.trial_number == trial and run.state == TrialState.COMPLETE}


def error_on_test(run: ConfirmRun, objective: Objective) -> float | None:
    """Return the score on the test part as a cost, such as 1 - accuracy; None if the run has no score."""
    if run.test_score is None:
        return None
    return 1.0 - run.test_score if objective.score is None else objective.score.cost(run.test_score)


def judged_cost(run: ConfirmRun, objective: Objective) -> float | None:
    """Return what a completed run costs on the test part.

    The time to a target is read on validation; it is None for a run that missed the target.
    """
    if objective.is_timed:
        return objective.reached(curve_of(run))
    return run.test_loss if objective.score is None else error_on_test(run, objective)


def length(curve: Sequence[Progress], metric: str) -> float:
    """Return the steps of a run for ``steps_to_target``, otherwise its seconds; 0 for an empty curve."""
    if not curve:
        return 0.0
    return float(curve[-1].step) if metric == "steps_to_target" else curve[-1].seconds
