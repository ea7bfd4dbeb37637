"""The metrics: scores, beside the loss, that a trial can be judged by.

To add one, list its entry here; outside of the service, call ``METRICS.register``. In a spec it is ``val_<name>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from service.registry import Registry
from service.spec.tasks import Task

PREFIX: Final = "val_"
ERROR: Final = "test_error_or_unexplained_variance"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEntry:
    """A score of a model on a whole part of the data.

    Attributes:
        name: Its name; specs call it ``val_<name>``, as trials are judged on the validation part.
        tasks: Tasks that have it.
        score: Import string of a ``service.training.tasks.Score``.
        noun: What is compared on the test part, as it is called in the reason of a verdict.
        compared_as: Name of that comparison among the findings.
        best: The score of a perfect model.
        higher_is_better: Whether a higher score is better.
    """

    name: str
    tasks: tuple[str, ...]
    score: str
    noun: str
    compared_as: str = ERROR
    best: float = 1.0
    higher_is_better: bool = True

    @property
    def field(self) -> str:
        """Its name in specs."""
        return f"{PREFIX}{self.name}"

    def cost(self, score: float) -> float:
        """Return the distance to the best score, which a search minimises."""
        return self.best - score if self.higher_is_better else score - self.best


METRICS: Final = Registry[MetricEntry](
    "metric",
    (
        MetricEntry(
            name="accuracy",
            tasks=(Task.CLASSIFICATION, Task.LANGUAGE),
            score="service.training.tasks:ACCURACY",
            noun="test error",
        ),
        MetricEntry(
            name="r2",
            tasks=(Task.REGRESSION, Task.AUTOENCODING),
            score="service.training.tasks:R2_SCORE",
            noun="unexplained variance of the test part",
        ),
        MetricEntry(
            name="closeness",
            tasks=(Task.PHYSICS,),
            score="service.training.tasks:CLOSENESS",
            noun="relative error of the solution",
        ),
    ),
)
"""Every metric by its name."""


def metric_of(field: str) -> MetricEntry | None:
    """Return the metric that a spec calls ``field``; None for the loss and for times to a target."""
    return METRICS.get(field.removeprefix(PREFIX)) if field.startswith(PREFIX) else None
