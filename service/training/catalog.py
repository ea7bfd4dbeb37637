# Facts about the bundled datasets and the models' tensor shapes, worked out without loading numpy or torch: the API
# checks specs with them. The data itself is in datasets.py, the modules in models.py; tests hold the two together.
"""Torch-free facts about datasets and models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from service.schemas import AutoencoderSpec, MlpSpec


class Task(StrEnum):
    """What a model is trained for, and with it the loss."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    AUTOENCODING = "autoencoding"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """Facts about one bundled dataset.

    Attributes:
        rows: Number of samples.
        features: Number of input columns.
        task: What the target column asks for.
        outputs: Classes of a classification, columns of a regression's target.
        images: Whether the columns are pixels: they share one unit, and so one scale, and can be autoencoded.
        source: Where the data comes from.
        columns: Names of the input columns.
    """

    rows: int
    features: int
    task: Task
    outputs: int
    images: bool = False
    source: str = "scikit-learn"
    columns: tuple[str, ...] = ()


_PIXELS: Final = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
_CELLS: Final = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"),
    *("concave points", "symmetry", "fractal dimension"),
)
_NUCLEI: Final = (
    *(f"mean {name}" for name in _CELLS),
    *(f"{name} error" for name in _CELLS),
    *(f"worst {name}" for name in _CELLS),
)
_WINE: Final = (
    *("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids"),
    *("nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline"),
)
_PATIENT: Final = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")

DATASETS: Final[Mapping[str, DatasetInfo]] = {
    "digits": DatasetInfo(rows=1797, features=64, task=Task.CLASSIFICATION, outputs=10, images=True, columns=_PIXELS),
    "breast_cancer": DatasetInfo(rows=569, features=30, task=Task.CLASSIFICATION, outputs=2, columns=_NUCLEI),
    "wine": DatasetInfo(rows=178, features=13, task=Task.CLASSIFICATION, outputs=3, columns=_WINE),
    "diabetes": DatasetInfo(rows=442, features=10, task=Task.REGRESSION, outputs=1, columns=_PATIENT),
}


HELD_OUT: Final = 0.2
"""Share of the rows in the validation part, and again in the test part."""

MIN_TASKS: Final = 3
"""Tasks of a family: one to learn P on, one to choose by, one to judge on."""


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
