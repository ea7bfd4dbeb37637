# Facts about the bundled datasets and the models' tensor shapes, worked out without loading numpy or torch: the API
# checks specs with them. The data itself is in datasets.py, the modules in models.py; tests hold the two together.
"""Torch-free facts about datasets and models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from service.schemas import AutoencoderSpec, MlpSpec


class Task(StrEnum):
    """What a model is trained for, and with it the loss."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    AUTOENCODING = "autoencoding"
    LANGUAGE = "language"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """Facts about one dataset.

    Attributes:
        rows: Number of samples.
        features: Number of input columns.
        task: What the target column asks for.
        outputs: Classes of a classification, columns of a regression's target.
        images: Whether the columns are pixels: they share one unit, and so one scale, and can be autoencoded.
        source: Where the data comes from.
        shape: Channels, height and width of an image; empty for other data.
    """

    rows: int
    features: int
    task: Task
    outputs: int
    images: bool = False
    source: str = "scikit-learn"
    shape: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DatasetInfo:
        """Read the JSON values of ``dataclasses.asdict``."""
        return cls(**{**stored, "task": Task(stored["task"]), "shape": tuple(stored["shape"])})


DATASETS: Final[Mapping[str, DatasetInfo]] = {
    "digits": DatasetInfo(rows=1797, features=64, task=Task.CLASSIFICATION, outputs=10, images=True, shape=(1, 8, 8)),
    "breast_cancer": DatasetInfo(rows=569, features=30, task=Task.CLASSIFICATION, outputs=2),
    "wine": DatasetInfo(rows=178, features=13, task=Task.CLASSIFICATION, outputs=3),
    "diabetes": DatasetInfo(rows=442, features=10, task=Task.REGRESSION, outputs=1),
}


HELD_OUT: Final = 0.2
"""Share of the rows in the validation part, and again in the test part."""


def training_rows(dataset: DatasetInfo) -> int:
    """Return how many rows are left to train on."""
    held_out = math.ceil(dataset.rows * HELD_OUT)
    return dataset.rows - held_out - math.ceil((dataset.rows - held_out) * HELD_OUT / (1 - HELD_OUT))


def task_of(dataset: DatasetInfo, model: MlpSpec | AutoencoderSpec) -> Task:
    """Return what ``model`` is trained for on ``dataset``."""
    return Task.AUTOENCODING if isinstance(model, AutoencoderSpec) else dataset.task


def layer_sizes(dataset: DatasetInfo, model: MlpSpec | AutoencoderSpec) -> list[int]:
    """Return the widths of the layers of ``model``, from the input to the output.

    >>> layer_sizes(DATASETS["digits"], AutoencoderSpec())
    [64, 96, 48, 30, 48, 96, 64]
    """
    if isinstance(model, AutoencoderSpec):
        return [dataset.features, *model.hidden, model.code, *reversed(model.hidden), dataset.features]
    return [dataset.features, *model.hidden, dataset.outputs]


def tensor_shapes(dataset: DatasetInfo, model: MlpSpec | AutoencoderSpec) -> list[tuple[int, ...]]:
    """Return the shapes of the parameters of ``model``, in the order of ``Module.parameters()``."""
    sizes = layer_sizes(dataset, model)
    return [shape for fan_in, fan_out in pairwise(sizes) for shape in ((fan_out, fan_in), (fan_out,))]
