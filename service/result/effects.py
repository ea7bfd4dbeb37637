"""Figures as people read them: scores, effects as shares of the baseline's mean, and the rows of a forest plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from service.result.job_result import Comparison, JobResult, Paired
from service.spec.metrics import METRICS, MetricEntry, metric_of

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


def times(ratio: float) -> str:
    """Return a multiple as text.

    >>> times(2.41), times(14.8), times(1234.5)
    ('2.4 times', '15 times', '1,234 times')
    """
    return f"{ratio:.2g} times" if ratio < 10 else f"{ratio:,.0f} times"


def difference(share: float) -> str:
    """Return an improvement, as a share of what it is compared with, as people say it.

    >>> difference(0.1), difference(-0.05), difference(-5.91), difference(0.0)
    ('10 % better', '5 % worse', '6.9 times worse', 'equal')
    """
    if share < -1:
        return f"{times(1 - share)} worse"
    return f"{percent(abs(share))} {'better' if share > 0 else 'worse'}" if share else "equal"


def change(found: Comparison) -> str:
    """Return how an arm differs from the other one as people say it; of times, how much slower or faster it is."""
    share = found.relative_improvement
    if share is None:
        return "-"
    if "seconds" in found.metric:
        return times_slower(1 - share)
    if "steps" in found.metric and share:
        return f"{times(1 - share)} as many steps" if share <= -1 else f"{_more(share, 'fewer')} steps"
    return difference(share)


def times_slower(ratio: float) -> str:
    """Return a time, divided by the time that it is compared with, as people say it.

    >>> times_slower(3.9), times_slower(1.2), times_slower(0.9), times_slower(0.25), times_slower(1.0)
    ('3.9 times slower', '20 % more time', '10 % less time', '4 times faster', 'equal')
    """
    if ratio >= 2:
        return f"{times(ratio)} slower"
    if 0 < ratio <= 0.5:
        return f"{times(1 / ratio)} faster"
    return f"{_more(1 - ratio, 'less')} time" if ratio != 1 else "equal"


def _more(share: float, less: str) -> str:
    return f"{percent(abs(share))} {less if share > 0 else 'more'}"


def figure(score: float | None, metric: MetricEntry | None, digits: int = 4) -> str:
    """Return a score as text, such as 72.5 % for an accuracy; without a metric, a loss.

    >>> figure(0.7249, METRICS["accuracy"]), figure(0.93126, METRICS["roc_auc"]), figure(None, None)
    ('72.5 %', '0.9313', '-')
    """
    if score is None:
        return "-"
    if metric is None or metric.unit == "target":
        return f"{score:.{digits}g}"
    if metric.unit == "percent":
        return percent(score)
    return f"{score:.4f}" if abs(score) < 10 else f"{score:.{digits}g}"  # an R2 can be far below 0


def score_label(name: str | None) -> str:
    """Return how people write the score that runs have beside the loss; empty if they have none."""
    entry = METRICS.get(name or "")
    return entry.label if entry else name or ""  # one of a plug-in may not be known here


def search_figure(metric: str, cost: float | None, digits: int = 5) -> str:
    """Return what a trial or an arm costs, as the score that its job is judged by if it is judged by one."""
    entry = metric_of(metric)
    return figure(cost if cost is None or entry is None else entry.score_of(cost), entry, digits)


def read_comparison(found: Comparison, part: str) -> tuple[str, str, str]:
    """Return what is compared and both means, as people read them: test accuracy, 72.5 % and 70.1 %.

    ``part`` is the part of the data that the job is judged on.
    """
    entry = next((entry for entry in METRICS.values() if entry.compared_as == found.metric), None)
    own = f"{part} loss" if found.metric == "test_loss" else found.metric
    own = own.replace("loss_of_baseline", f"the loss of {found.against}").replace("_", " ")
    label = own if entry is None else f"{part} {entry.label}"
    means = (found.mean, found.against_mean)
    if entry is None:
        return label, f"{means[0]:.4g}", f"{means[1]:.4g}"
    return label, figure(entry.score_of(means[0]), entry), figure(entry.score_of(means[1]), entry)


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
