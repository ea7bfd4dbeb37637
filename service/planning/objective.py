"""Works out costs from learning curves: what a search minimises.

Everything is a cost, lower is better, so that one rule ranks trials whatever the metric. Knows no database and no
Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from service.spec.dataset_info import MOST_OF_IT, Outliers
from service.spec.job import ObjectiveSpec
from service.spec.metrics import MetricEntry, metric_of
from service.training.best import Cost, best_index, smoothed
from service.training.run import CurvePoint

TIMED: Final = ("seconds_to_target", "steps_to_target")
"""Metrics that ask when a validation loss is reached."""


def or_worst(loss: float | None) -> float:
    """Return a loss to rank by: infinity where none was stored, so that such a trial wins no tie.

    Services from before the column of the loss did not store it.
    """
    return math.inf if loss is None else loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A metric with what it is measured against.

    Attributes:
        metric: As in the spec.
        target: Validation loss to reach. None without a target, or while it is not known: then the loss itself counts.
        steps: Steps of a run: what a miss costs at least, in steps.
        max_seconds: Seconds of an arm, which no run can exceed: what a miss costs at least, in seconds.
        at_best: Whether a run is judged at its best point instead of its last one.
        part: The part of the data that runs on fresh seeds are judged on.
    """

    metric: str
    target: float | None
    steps: int
    max_seconds: float
    at_best: bool = False
    part: Literal["test", "validation"] = "test"

    @property
    def score(self) -> MetricEntry | None:
        """The score that is judged; None for the loss and for times to a target."""
        return metric_of(self.metric)

    @property
    def is_timed(self) -> bool:
        """Whether the cost is the time to a target."""
        return self.metric in TIMED and self.target is not None

    def signal(self, points: Sequence[CurvePoint]) -> float:
        """Return the loss, or the cost of the score, that a run has after some points: what a pruner compares.

        Args:
            points: Its learning curve so far, in order; at least one point.
        """
        costs = [self.cost_at(point)[0] for point in points]
        return min(smoothed(costs)) if self.at_best else costs[-1]

    def best_point(self, points: Sequence[CurvePoint]) -> CurvePoint:
        """Return the point of a curve that is judged."""
        return points[best_index([self.cost_at(point) for point in points])] if self.at_best else points[-1]

    def cost_at(self, point: CurvePoint) -> Cost:
        """Return the loss, or the cost of the score, at one point; the loss decides between equal scores."""
        score = self.score
        if score is not None and point.val_score is not None:
            return score.cost(point.val_score), point.val_loss
        return point.val_loss, point.val_loss

    def cost_of(self, loss: float | None, score: float | None) -> float | None:
        """Return the loss, or the cost of the score if that is judged; None if there is none."""
        if self.score is None:
            return loss
        return None if score is None else self.score.cost(score)

    def cost(self, points: Sequence[CurvePoint]) -> float | None:
        """Return the cost of a run: of its best or its last point, or the time to the target.

        A run that misses the target is not dropped. It costs the cap on steps or seconds, which is more than any run
        that reaches the target, plus the distance that was left, so that a near miss ranks above a far one.

        Args:
            points: Its learning curve, in order; None is returned for an empty one.
        """
        if not points:
            return None
        if not self.is_timed:
            return self.signal(points)
        reached = self.reached(points)
        if reached is not None:
            return reached
        assert self.target is not None, "a timed objective has one"
        cap = self.steps if self.metric == "steps_to_target" else self.max_seconds
        return cap + self.best_point(points).val_loss - self.target

    def reached(self, points: Sequence[CurvePoint]) -> float | None:
        """Return the steps or seconds to the target; None if it was missed, or if the objective is not timed."""
        return time_to(points, self.target, self.metric) if self.is_timed else None


def time_to(points: Sequence[CurvePoint], target: float | None, metric: str) -> float | None:
    """Return the steps (``steps_to_target``) or else seconds to a validation loss of ``target``; None if missed."""
    if target is None:
        return None
    hit = next((point for point in points if point.val_loss <= target), None)
    if hit is None:
        return None
    return float(hit.step) if metric == "steps_to_target" else hit.seconds


def decided_by_outliers(metric: str, transform: str, outliers: Outliers | None) -> str | None:
    """Return that a few odd rows of a regression decide a metric; None if they do not.

    Args:
        metric: As in the spec. The loss and times to a loss are about the transformed target, scores about the target.
        transform: Target transform; those that are not linear bring the odd rows close to the others.
        outliers: The odd rows; None if the target has none.
    """
    entry = metric_of(metric)
    made_of = entry.outliers if entry else ("squares" if transform == "standardise" else None)
    if outliers is None or made_of is None or getattr(outliers, made_of) < MOST_OF_IT:
        return None
    value = f"{outliers.value:g}"
    few = f"{outliers.rows} rows, with targets such as {value}, decide"
    if outliers.rows == 1:
        few = f"one row, whose target is {value}, decides"
    share = min(100 * getattr(outliers, made_of), 99.9)
    parts = "squared distances" if made_of == "squares" else "distances"
    return (
        f"{few} the {entry.label if entry else 'loss'}: {share:.1f} % of all {parts} to the median of the target come "
        "from there"
    )


def make_objective(
    spec: ObjectiveSpec,
    steps: int,
    max_seconds: float,
    target: float | None,
    *,
    at_best: bool = False,
    part: Literal["test", "validation"] = "test",
) -> Objective:
    """Return the objective of a spec; ``target`` is the loss that the baseline reaches where the spec asks for that."""
    number = target if spec.target == "baseline" else spec.target
    return Objective(
        metric=spec.metric, target=number, steps=steps, max_seconds=max_seconds, at_best=at_best, part=part
    )
