"""Measures whether early losses rank runs as their final costs do; pruning is turned off where they do not.

It is measured on the first trials of an arm, which nothing stops. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from service.db.models import Trial
from service.planning.objective import Objective
from service.result.job_result import Fidelity
from service.states import ENDED_TRIAL, TrialState
from service.training.run import CurvePoint

UNPRUNED: Final = 8
"""First trials of each arm that are never pruned: the rank correlation is measured on them."""

MIN_TAU: Final = 0.5
"""Pruning is turned off if Kendall's tau is lower. At 0.5, three pairs of runs in four keep their order."""

MIN_TRIALS: Final = 4
"""With fewer completed trials the correlation cannot be measured, and pruning is off too."""


def measure(
    arm: str,
    rows: Sequence[Trial],
    curves: Mapping[int, Sequence[CurvePoint]],
    objective: Objective,
    rung_step: int,
) -> Fidelity | None:
    """Measure the rank correlation on the first trials of an arm; None while not all of them have ended.

    Args:
        arm: Its name.
        rows: Its trials, in the order of their numbers.
        curves: Learning curve by trial id.
        objective: What the trials are judged by.
        rung_step: Step before which no trial is stopped.
    """
    first = rows[:UNPRUNED]
    if len(first) < UNPRUNED or any(row.state not in ENDED_TRIAL for row in first):
        return None
    early: list[float] = []
    final: list[float] = []
    for row in first:
        points = curves.get(row.id, ())
        at_rung = next((point for point in points if point.step >= rung_step), None)
        if row.state == TrialState.COMPLETE and row.value is not None and at_rung is not None:
            early.append(objective.signal(at_rung))
            final.append(row.value)
    tau = _kendall(early, final)
    trusted = tau is not None and tau >= MIN_TAU
    return Fidelity(arm=arm, trials=len(early), rung_step=rung_step, tau=tau, trusted=trusted)


def _kendall(early: Sequence[float], final: Sequence[float]) -> float | None:
    if len(early) < MIN_TRIALS or len(set(early)) == 1 or len(set(final)) == 1:
        return None
    from scipy import stats  # takes a second to load, which only a worker pays

    return round(float(stats.kendalltau(early, final).statistic), 12)  # otherwise 0.5 may come out as a little less
