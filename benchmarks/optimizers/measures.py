"""Turn learning curves into the figures of the report. Pure functions; no files.

Figures that compare arms are ratios, so that their geometric mean over tasks makes sense.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.optimizers.training import Curve
from service.recommend.verdict import compare
from service.result.job_result import ALPHA
from service.running.arm_study import NO_LOSS

MISS: Final = 10.0
"""Ratio to use for steps or seconds to a loss that the run never reached."""

WORST_SPREAD: Final = 1000.0
"""Upper limit of the lr spread; also its value when a run diverged."""

MARGIN: Final = 1.02
"""WarpAdam loses if its loss is significantly above this factor times the best peer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How WarpAdam compares with the best peer on one task.

    Attributes:
        word: ``win`` if the loss is significantly below the peer's, ``loss`` if it is significantly above ``MARGIN``
            times the peer's, else ``even``.
        peer: Name of the peer with the lowest median loss on the confirmation seeds.
        ratio: Median loss of WarpAdam divided by the peer's.
        p_win: One-sided p-value of "WarpAdam's losses are below the peer's".
        p_loss: One-sided p-value of "they are above ``MARGIN`` times the peer's".
    """

    word: str
    peer: str
    ratio: float
    p_win: float
    p_loss: float


def median_curve(curves: Sequence[Curve]) -> Curve:
    """Return the median loss and the median seconds at each point. A diverged curve counts as infinite from then on."""
    longest = max(curves, key=lambda curve: len(curve.steps))
    points = range(len(longest.steps))
    losses = [statistics.median(c.losses[i] if i < len(c.losses) else math.inf for c in curves) for i in points]
    seconds = [statistics.median(c.seconds[min(i, len(c.seconds) - 1)] for c in curves) for i in points]
    return Curve(longest.steps, losses, seconds)


def final_loss(curves: Sequence[Curve]) -> float:
    """Return the median of the final losses."""
    return statistics.median(curve.final for curve in curves)


def to_reach(curve: Curve, loss: float, baseline: Curve) -> tuple[float, float]:
    """Return steps and seconds to reach ``loss``, divided by those of the whole ``baseline``, or ``MISS``."""
    for step, reached, seconds in zip(curve.steps, curve.losses, curve.seconds, strict=True):
        if reached <= loss:
            return step / baseline.steps[-1], seconds / baseline.seconds[-1]
    return MISS, MISS


def lr_spread(swept: Mapping[float, Curve]) -> float:
    """Return the worst final loss divided by the best, at most ``WORST_SPREAD``."""
    finals = [curve.final for curve in swept.values()]
    return min(max(finals) / min(finals), WORST_SPREAD)


def geometric_mean(ratios: Iterable[float]) -> float:
    """Return the geometric mean of ``ratios``."""
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


def judge(challenger: Sequence[Curve], peers: Mapping[str, Sequence[Curve]]) -> Judgement:
    """Compare with the best peer: exact sign-flip tests on the logarithms of paired losses."""
    peer = min(peers, key=lambda name: final_loss(peers[name]))
    ours, theirs = _logs(challenger), _logs(peers[peer])
    p_win = compare(theirs, ours, min_effect=0.0).p_helps
    p_loss = compare([loss + math.log(MARGIN) for loss in theirs], ours, min_effect=0.0).p_hurts
    word = "win" if p_win <= ALPHA else "loss" if p_loss <= ALPHA else "even"
    ratio = final_loss(challenger) / final_loss(peers[peer])
    return Judgement(word=word, peer=peer, ratio=ratio, p_win=p_win, p_loss=p_loss)


def _logs(curves: Sequence[Curve]) -> list[float]:
    return [math.log(min(curve.final, NO_LOSS)) for curve in curves]
