"""The tasks: what a model can be trained for, and with it the loss.

To add one, list its entry here; outside of the service, call ``TASKS.register``. A model trains for it if its ``task``
method returns the name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field
from typing_extensions import TypeAliasType

from search_spaces.errors import must_be_one_of
from service.registry import Registry


class Task(StrEnum):
    """Names of the built-in tasks. A plug-in may add others, so a task is any name in ``TASKS``: a ``str``."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    AUTOENCODING = "autoencoding"
    LANGUAGE = "language"
    PHYSICS = "physics"
    LOOP = "loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trivial:
    """What always predicts the same, whatever the input: the least that a model has to beat.

    Attributes:
        output: Import string of ``(targets of the training part, outputs) -> the output for one row``.
        predicts: What it predicts, in words, where a score is judged.
        predicts_for_loss: The same where the loss is judged.
    """

    output: str
    predicts: str
    predicts_for_loss: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """What follows from a task.

    Attributes:
        name: Its name.
        loss: Import string of ``(output, target) -> mean loss``; empty for a training loop of the user's, which has its
            own, as it has data.
        metric: Name of the metric that a run computes unless its objective names another one; empty for such a loop.
        example: Import string of ``(rows, inputs, outputs) -> (x, y)``, numbers drawn at random to time steps on; empty
            as ``loss`` is.
        has_classes: Whether the loss is over classes, so that labels can be smoothed.
        weighs_classes: Whether ``class_weights`` apply: each row has one class.
        reconstructs: Whether the target is the input.
        user_models: Whether a model of the user's own code can be trained for it.
        splits_rows: Whether rows are split at random, so that another seed gives another split.
        negative_loss: Whether its loss may be below 0, as minus a log-likelihood is.
        can_overfit: Whether validation may become worse while training goes on, so that runs are judged at their best
            point.
        trivial: What always predicts the same, to show beside the scores of models; None if there is no such thing.
    """

    name: str
    loss: str
    metric: str
    example: str
    has_classes: bool = False
    weighs_classes: bool = False
    reconstructs: bool = False
    user_models: bool = True
    splits_rows: bool = True
    negative_loss: bool = False
    can_overfit: bool = True
    trivial: Trivial | None = None


MEAN: Final = Trivial(
    output="service.training.tasks:mean_target",
    predicts="the mean of the target",
    predicts_for_loss="the mean of the target",
)

MEDIAN: Final = Trivial(
    output="service.training.tasks:median_target",
    predicts="the median of the target",
    predicts_for_loss="the median of the target",
)

FREQUENCIES: Final = Trivial(
    output="service.training.tasks:frequencies",
    predicts="the frequencies of the classes",
    predicts_for_loss="the frequencies of the classes",
)

TASKS: Final = Registry[TaskEntry](
    "task",
    (
        TaskEntry(
            name=Task.CLASSIFICATION,
            loss="torch.nn.functional:cross_entropy",
            metric="accuracy",
            example="service.training.tasks:example_classes",
            has_classes=True,
            weighs_classes=True,
            trivial=replace(FREQUENCIES, predicts="the most frequent class"),
        ),
        TaskEntry(
            name=Task.REGRESSION,
            loss="torch.nn.functional:mse_loss",
            metric="r2",
            example="service.training.tasks:example_numbers",
            trivial=MEAN,
        ),
        TaskEntry(
            name=Task.AUTOENCODING,
            loss="torch.nn.functional:mse_loss",
            metric="r2",
            example="service.training.tasks:example_inputs",
            reconstructs=True,
            trivial=MEAN,
        ),
        TaskEntry(
            name=Task.LANGUAGE,
            loss="torch.nn.functional:cross_entropy",
            metric="accuracy",
            example="service.training.tasks:example_tokens",
            has_classes=True,
            user_models=False,
            splits_rows=False,
            trivial=Trivial(
                output="service.training.tasks:frequencies",
                predicts="the most frequent token",
                predicts_for_loss="the frequencies of the tokens",
            ),
        ),
        TaskEntry(
            name=Task.PHYSICS,
            loss="service.training.networks:residual_loss",
            metric="closeness",
            example="service.training.tasks:example_points",
            user_models=False,
            splits_rows=False,
            can_overfit=False,
        ),
        TaskEntry(
            name=Task.LOOP, loss="", metric="", example="", user_models=False, splits_rows=False, negative_loss=True
        ),
    ),
)
"""Every task by its name. A loss is the mean over the rows (and columns) of targets as they are trained on."""


def _known(name: str) -> str:
    if name not in TASKS:
        message, hint = must_be_one_of(name, TASKS)
        raise ValueError(f"{message}. {hint}" if hint else message)
    return name


def _list_names(schema: dict[str, Any]) -> None:
    schema["enum"] = list(TASKS)


TaskName = TypeAliasType("TaskName", Annotated[str, AfterValidator(_known), Field(json_schema_extra=_list_names)])
"""A name in ``TASKS``, for pydantic. It is looked up when a value is checked, when every plug-in is there."""
