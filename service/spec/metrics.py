"""The metrics: scores, beside the loss, that a trial can be judged by.

To add one, list its entry here; outside of the service, call ``METRICS.register``. In a spec it is ``val_<name>``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from service.registry import Registry
from service.spec.tasks import FREQUENCIES, MEDIAN, Task, Trivial

PREFIX: Final = "val_"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEntry:
    """A score of a model on a whole part of the data.

    Attributes:
        name: Its name; specs call it ``val_<name>``, as trials are judged on the validation part.
        tasks: Tasks that have it.
        score: Import string of a ``service.training.tasks.Score``.
        title: How people write it; empty for the name.
        noun: What its distance to the best score is called, such as the error.
        best: The score of a perfect model.
        worst: The score that no model can be worse than; None if there is none.
        higher_is_better: Whether a higher score is better.
        unit: ``percent`` for a share that is written in percent, ``target`` for a score in units of the target.
        trivial: What always predicts the same and is hard to beat by this metric; None for that of the task.
        outliers: What an odd row adds to the metric: its squared error, its error, or None for neither.
        script_needs: What an exported script needs installed for it, besides torch and numpy.
    """

    name: str
    tasks: tuple[str, ...]
    score: str
    title: str = ""
    noun: str = "it"
    best: float = 1.0
    worst: float | None = None
    higher_is_better: bool = True
    unit: Literal["percent", "target"] | None = None
    trivial: Trivial | None = None
    outliers: Literal["squares", "distances"] | None = None
    script_needs: str = ""

    @property
    def field(self) -> str:
        """Its name in specs."""
        return f"{PREFIX}{self.name}"

    @property
    def label(self) -> str:
        """How people write it."""
        return self.title or self.name

    @property
    def compared_as(self) -> str:
        """What the findings call its cost on the test part."""
        return f"{self.best:g} - test_{self.name}" if self.higher_is_better else f"test_{self.name}"

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest score that there can be."""
        if self.higher_is_better:
            return -math.inf if self.worst is None else self.worst, self.best
        return self.best, math.inf if self.worst is None else self.worst

    def cost(self, score: float) -> float:
        """Return the distance to the best score, which a search minimises."""
        return self.best - score if self.higher_is_better else score - self.best

    def score_of(self, cost: float) -> float:
        """Return the score that has a cost."""
        return self.best - cost if self.higher_is_better else self.best + cost


def _of_classes(name: str, title: str, noun: str, trivial: Trivial | None = None) -> MetricEntry:
    return MetricEntry(
        name=name,
        tasks=(Task.CLASSIFICATION,),
        score=f"service.training.tasks:{name.upper()}",
        title=title,
        noun=noun,
        worst=0.0,
        trivial=trivial,
        script_needs="scikit-learn",
    )


def _of_numbers(
    name: str, title: str, trivial: Trivial | None, outliers: Literal["squares", "distances"] | None
) -> MetricEntry:
    return MetricEntry(
        name=name,
        tasks=(Task.REGRESSION,),
        score=f"service.training.tasks:{name.upper()}",
        title=title,
        best=0.0,
        higher_is_better=False,
        unit="target",
        trivial=trivial,
        outliers=outliers,
    )


METRICS: Final = Registry[MetricEntry](
    "metric",
    (
        MetricEntry(
            name="accuracy",
            tasks=(Task.CLASSIFICATION, Task.LANGUAGE),
            score="service.training.tasks:ACCURACY",
            noun="the error",
            worst=0.0,
            unit="percent",
        ),
        replace(_of_classes("balanced_accuracy", "balanced accuracy", "the mean error of the classes"), unit="percent"),
        _of_classes("f1", "F1 (macro)", "1 - F1"),
        _of_classes("roc_auc", "ROC AUC", "1 - ROC AUC", FREQUENCIES),
        _of_classes("average_precision", "average precision", "1 - average precision", FREQUENCIES),
        replace(_of_classes("log_loss", "log loss", "it", FREQUENCIES), best=0.0, worst=None, higher_is_better=False),
        MetricEntry(
            name="r2",
            tasks=(Task.REGRESSION, Task.AUTOENCODING),
            score="service.training.tasks:R2_SCORE",
            title="R2",
            noun="the unexplained variance",
            outliers="squares",
        ),
        _of_numbers("mae", "MAE", MEDIAN, "distances"),
        _of_numbers("rmse", "RMSE", None, "squares"),
        _of_numbers("median_absolute_error", "median absolute error", MEDIAN, None),
        MetricEntry(
            name="closeness",
            tasks=(Task.PHYSICS,),
            score="service.training.tasks:CLOSENESS",
            noun="the relative error of the solution",
        ),
    ),
)
"""Every metric by its name."""


SYNONYMS: Final = {
    "val_loss": ("loss",),
    "val_accuracy": ("acc", "correct", "hitrate"),
    "val_balanced_accuracy": ("bacc", "balancedacc", "balanced"),
    "val_f1": ("f1score", "f1macro", "fscore", "macrof1"),
    "val_roc_auc": ("auc", "roc", "auroc", "rocauc", "aucroc", "gini"),
    "val_average_precision": ("ap", "map", "prauc", "auprc", "aucpr"),
    "val_log_loss": ("crossentropy", "ce", "nll", "brier"),
    "val_r2": ("r2score", "rsquared", "r"),
    "val_mae": ("l1", "meanabsoluteerror"),
    "val_rmse": ("mse", "l2", "rootmeansquarederror", "meansquarederror"),
    "val_median_absolute_error": ("medae", "medianae", "mad"),
}
"""A metric, or the loss, in specs -> what people also call it, or what is nearest to what they ask for."""


def likely_metric(given: str) -> str | None:
    """Return the metric in specs that a word probably means; None without one.

    >>> likely_metric("AUC"), likely_metric("log-loss"), likely_metric("mse"), likely_metric("speed")
    ('val_roc_auc', 'val_log_loss', 'val_rmse', None)
    """
    word = re.sub(r"^(val|test|validation)_|[^a-z0-9]", "", given.lower())
    named = {name.replace("_", ""): f"{PREFIX}{name}" for name in METRICS}
    return named.get(word) or next((field for field, words in SYNONYMS.items() if word in words), None)


def metric_of(field: str) -> MetricEntry | None:
    """Return the metric that a spec calls ``field``; None for the loss and for times to a target."""
    return METRICS.get(field.removeprefix(PREFIX)) if field.startswith(PREFIX) else None
