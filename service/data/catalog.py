"""Facts about datasets, which specs are checked with: tasks, shapes, and the bundled datasets.

Neither numpy nor torch is loaded here. Tests hold the facts and the data of the bundled datasets together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from service.errors import OtherVersionError
from service.spec.model import (
    AnyModel,
    AutoencoderSpec,
    ConvnetSpec,
    EntrypointSpec,
    MlpSpec,
    PinnSpec,
    ResnetSpec,
    TransformerSpec,
)


class Task(StrEnum):
    """What a model is trained for. It decides the loss."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    AUTOENCODING = "autoencoding"
    LANGUAGE = "language"
    PHYSICS = "physics"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """Facts about one dataset.

    Attributes:
        rows: Number of samples.
        features: Number of input columns.
        task: What the target column asks for.
        outputs: Classes of a classification; columns of a regression's target.
        images: Whether the columns are pixels. Pixels share one scale and can be autoencoded.
        source: Where the data comes from.
        shape: Channels, height and width of an image; empty for other data.
        characters: Distinct characters of a text.
        length: Characters of a text.
        columns: Names of the input columns.
        widths: Number of features that each of these becomes; empty if each becomes one.
        tensors: Shapes of the parameters of a user's model on this data; empty for the service's own models.
        sources: Entrypoint of user code -> SHA-256 of the source of its module.
    """

    rows: int
    features: int
    task: Task
    outputs: int
    images: bool = False
    source: str = "scikit-learn"
    shape: tuple[int, ...] = ()
    characters: int = 0
    length: int = 0
    columns: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    tensors: tuple[tuple[int, ...], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row that a user's model gets."""
        return self.shape or (self.features,)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DatasetInfo:
        """Read the JSON values of ``dataclasses.asdict``. Facts that only another version knows are left out.

        Raises:
            OtherVersionError: A fact is missing or cannot be read.
        """
        known = known_fields(cls, stored)
        lists = {name: tuple(stored.get(name, ())) for name in ("shape", "columns", "widths")}
        tensors = tuple(tuple(shape) for shape in stored.get("tensors", ()))
        try:
            return cls(**{**known, **lists, "tensors": tensors, "task": Task(stored["task"])})
        except (KeyError, TypeError, ValueError) as error:
            raise OtherVersionError("the facts about the job's data", error) from error


def known_fields(kind: type[object], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored values that a dataclass has a field for."""
    return {field.name: stored[field.name] for field in fields(kind) if field.name in stored}  # type: ignore[arg-type]


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

_EQUATION: Final = DatasetInfo(rows=5000, features=3, task=Task.PHYSICS, outputs=1, source="exact solution")

DATASETS: Final[Mapping[str, DatasetInfo]] = {
    "digits": DatasetInfo(
        rows=1797, features=64, task=Task.CLASSIFICATION, outputs=10, images=True, shape=(1, 8, 8), columns=_PIXELS
    ),
    "breast_cancer": DatasetInfo(rows=569, features=30, task=Task.CLASSIFICATION, outputs=2, columns=_NUCLEI),
    "wine": DatasetInfo(rows=178, features=13, task=Task.CLASSIFICATION, outputs=3, columns=_WINE),
    "diabetes": DatasetInfo(rows=442, features=10, task=Task.REGRESSION, outputs=1, columns=_PATIENT),
    "poisson_2d": _EQUATION,
    "burgers": _EQUATION,
}


HELD_OUT: Final = 0.2
"""Share of the rows in the validation part, and the same in the test part."""

MAX_VALUES: Final = 20
"""Most distinct values of a column of numbers that makes a task of each value; others are cut into bins."""

MIN_GROUP_ROWS: Final = 10
"""Fewest rows of a task; a fifth of them is held out."""

MIN_TASKS: Final = 3
"""Fewest tasks of a family: one to learn P on, one to choose a config by, one for the verdict."""


def training_rows(dataset: DatasetInfo, model: AnyModel | None = None) -> int:
    """Return the number of rows in the training part; of a text, the number of windows of ``model``."""
    if isinstance(model, TransformerSpec):
        return (part_bounds(text_tokens(dataset, model))[0] - 1) // model.context
    held_out = math.ceil(dataset.rows * HELD_OUT)
    return dataset.rows - held_out - math.ceil((dataset.rows - held_out) * HELD_OUT / (1 - HELD_OUT))


def text_tokens(dataset: DatasetInfo, model: TransformerSpec) -> int:
    """Return how many tokens a text has for ``model``: its characters or its bytes."""
    return dataset.length if model.tokens == "characters" else dataset.rows


def part_bounds(tokens: int) -> tuple[int, int]:
    """Return where the training part and the validation part of a text end."""
    held_out = int(tokens * HELD_OUT)
    return tokens - 2 * held_out, tokens - held_out


def task_of(dataset: DatasetInfo, model: AnyModel) -> Task:
    """Return what ``model`` is trained for on ``dataset``."""
    return Task.AUTOENCODING if isinstance(model, AutoencoderSpec) else dataset.task


def layer_sizes(dataset: DatasetInfo, model: AnyModel) -> list[int]:
    """Return the widths of the layers of ``model``, from the input to the output; of others than chains, just those.

    >>> layer_sizes(DATASETS["digits"], AutoencoderSpec())
    [64, 96, 48, 30, 48, 96, 64]
    """
    if isinstance(model, AutoencoderSpec):
        return [dataset.features, *model.hidden, model.code, *reversed(model.hidden), dataset.features]
    if isinstance(model, PinnSpec):
        return [2, *model.hidden, 1]
    if isinstance(model, MlpSpec):
        return [dataset.features, *model.hidden, dataset.outputs]
    if isinstance(model, TransformerSpec):
        return [model.context, dataset.characters if model.tokens == "characters" else dataset.outputs]
    return [dataset.features, dataset.outputs]


def tensor_shapes(dataset: DatasetInfo, model: AnyModel) -> list[tuple[int, ...]]:
    """Return the shapes of the parameters of ``model``, in the order of ``Module.parameters()``."""
    if isinstance(model, EntrypointSpec):
        return list(dataset.tensors)
    sizes = layer_sizes(dataset, model)
    if isinstance(model, ConvnetSpec):
        return _convnet_shapes(dataset.shape[0], model, sizes[-1])
    if isinstance(model, ResnetSpec):
        return _resnet_shapes(dataset.shape[0], model, sizes[-1])
    if isinstance(model, TransformerSpec):
        return _transformer_shapes(model, sizes[-1])
    return _chain_shapes(sizes)


def parameter_count(dataset: DatasetInfo, model: AnyModel) -> int:
    """Return the number of parameters of ``model`` on ``dataset``."""
    return sum(map(math.prod, tensor_shapes(dataset, model)))


def _chain_shapes(sizes: list[int]) -> list[tuple[int, ...]]:
    return [shape for fan_in, fan_out in pairwise(sizes) for shape in ((fan_out, fan_in), (fan_out,))]


def _convnet_shapes(channels: int, model: ConvnetSpec, outputs: int) -> list[tuple[int, ...]]:
    pairs = pairwise([channels, *model.channels])
    convolutions: list[tuple[int, ...]] = [shape for c, out in pairs for shape in ((out, c, 3, 3), (out,))]
    return convolutions + _chain_shapes([model.channels[-1], outputs])


def _resnet_shapes(channels: int, model: ResnetSpec, outputs: int) -> list[tuple[int, ...]]:
    def convolution(inner: int, out: int, side: int) -> list[tuple[int, ...]]:
        return [(out, inner, side, side), (out,), (out,)]

    shapes = convolution(channels, model.width, 3)
    before = model.width
    for stage in range(3):
        width = model.width << stage
        for _ in range(model.blocks):
            shapes += convolution(before, width, 3) + convolution(width, width, 3)
            shapes += convolution(before, width, 1) if before != width else []
            before = width
    return shapes + _chain_shapes([before, outputs])


def _transformer_shapes(model: TransformerSpec, tokens: int) -> list[tuple[int, ...]]:
    width = model.width
    norm: list[tuple[int, ...]] = [(width,), (width,)]
    block = [*norm, *_chain_shapes([width, 3 * width]), *_chain_shapes([width, width])]
    block += [*norm, *_chain_shapes([width, 4 * width, width])]
    return [(tokens, width), (model.context, width), *block * model.layers, *norm, *_chain_shapes([width, tokens])]
