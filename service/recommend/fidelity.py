# Whether an early look at a run tells how it ends. Measured on the first trials of an arm, which nothing stops; pruning
# that cannot be trusted is turned off. Pure: rows and curves in, a word out; who asks is study.py.
"""Honest multi-fidelity: pruning only where early losses rank runs as final ones do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.db.models import Trial
from service.planning.objective import Objective
from service.states import ENDED_TRIAL, TrialState
from service.training.run import Progress

UNPRUNED: Final = 8
"""Trials of each arm that run unpruned: the rank correlation is measured on them."""

MIN_TAU: Final = 0.5
"""Kendall's tau under which pruning is turned off: three pairs of runs in four keep their order at 0.5."""

MIN_TRIALS: Final = 4
"""Fewer completed trials among the first do not tell a correlation: pruning is then off as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How well the first rung of an arm ranks its trials.

    Attributes:
        arm: The arm.
        trials: Completed trials that it was measured on.
        rung_step: Step of the first rung.
        tau: Kendall's rank correlation between the losses there and the final costs; None if it could not be measured.
        trusted: Whether trials may be stopped early on its account.
    """

    arm: str
    trials: int
    rung_step: int
    tau: float | None
    trusted: bool


def measure(
    arm: str,
    rows: Sequence[Trial],
    curves: Mapping[int, Sequence[Progress]],
    objective: Objective,
    rung_step: int,
) -> Fidelity | None:
    """Measure the rank correlation on the first trials of an arm.

    Args:
        arm: Its name.
        rows: Its trials by number.
        curves: Learning curve by trial id.
        objective: What the trials are judged by.
        rung_step: Step before which no trial is stopped.

    Returns:
        None while the first ``UNPRUNED`` trials have not all ended.
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
    from scipy import stats  # a second to load, which only a worker pays

    return round(float(stats.kendalltau(early, final).statistic), 12)  # or 0.5 may be a little less than 0.5
