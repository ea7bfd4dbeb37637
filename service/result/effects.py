"""Effects as shares of the baseline's mean: how they are written in sentences, and the rows of a forest plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from service.result.job_result import JobResult, Paired

FARTHEST: Final = 3.0
"""Other arms are drawn up to this many times as far out as the compared ones, so that these stay readable."""


class Effect(NamedTuple):
    """A row of a forest plot: a comparison in shares of the mean of what it is compared with. Above 0 is better.

    Attributes:
        label: What is compared, or which arm is compared with the baseline.
        mean: The improvement.
        low: Lower end of its 95 % interval.
        high: Upper end.
        luck: How far two equal searches end apart just by luck; None if that is not known.
    """

    label: str
    mean: float
    low: float
    high: float
    luck: float | None

    @property
    def reach(self) -> float:
        """How far from 0 the row is drawn."""
        return max(abs(self.low), abs(self.high), self.luck or 0.0)


def effects(result: JobResult) -> list[Effect]:
    """Return the verdict's comparison at equal steps and at equal time, then each other arm against the baseline.

    A comparison with a mean of 0 is left out: it has no shares.
    """
    return [*_headline(result), *_other_arms(result)]


def axis_end(result: JobResult) -> float:
    """Return how far the axis of a forest plot goes on both sides of 0."""
    small = result.statistics.min_effect if result.statistics else 0.0
    nearest = max([small, *(effect.reach for effect in _headline(result))])
    others = (min(effect.reach, FARTHEST * nearest or effect.reach) for effect in _other_arms(result))
    return max([nearest, *others]) or 1.0


def percent(share: float) -> str:
    """Return a share as text, rounded to 0.0001 %.

    >>> percent(0.234), percent(-1.0), percent(0.0042)
    ('23.4 %', '-100 %', '0.42 %')
    """
    value = round(100 * share, 4) + 0.0  # never -0
    text = f"{value:,.1f}".removesuffix(".0") if abs(value) >= 1 else f"{value:.2g}"
    return f"{text} %"


def _headline(result: JobResult) -> Iterator[Effect]:
    steps, seconds = result.statistics, result.at_equal_seconds
    if steps is not None:
        label = "equal steps" if seconds else result.challenger
        yield from _effect(label, steps, steps.baseline_mean, steps.luck)
    if seconds is not None:
        yield from _effect("equal time", seconds, seconds.baseline_mean, seconds.luck)


def _other_arms(result: JobResult) -> Iterator[Effect]:
    for other in result.findings.comparisons:
        if other.against == result.baseline and other.arm != result.challenger:
            yield from _effect(other.arm, other, other.against_mean)


def _effect(label: str, found: Paired, mean: float, luck: float | None = None) -> Sequence[Effect]:
    scale = abs(mean)
    low, high = found.interval
    return [Effect(label, found.improvement / scale, low / scale, high / scale, luck)] if scale else []
