"""Facts about a dataset that checks of specs need, without its data and without numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from service.spec.base import read_stored
from service.spec.tasks import TaskName

HELD_OUT: Final = 0.2
"""Share of the rows in the validation part, and again in the test part."""


MOST_OF_IT: Final = 0.5
"""Share of what a metric is made of from which on a few rows decide it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outliers:
    """The few values of a column that are so far from its median that they decide its variance.

    Attributes:
        value: The farthest value.
        rows: How many there are.
        squares: Their share of the squared distances of all values to the median.
        distances: Their share of the distances.
    """

    value: float
    rows: int
    squares: float
    distances: float


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
        characters: Distinct characters of a text.
        length: Characters of a text, all of them; 0 where that was not counted.
        columns: Names of the input columns.
        widths: Features that each of these becomes; empty where each becomes one.
        left_out: Columns that are no features -> why.
        task_reason: What decided the task, for a person.
        target_low: Smallest target of a regression; None where that was not found out.
        target_outliers: The few rows that decide the variance of a regression's target; None without such rows.
        tensors: Shapes of the parameters of a user's model on this data; empty for the models of the service.
        sources: Entrypoint of user code -> SHA-256 of the source of its module.
        loop_steps: Steps of the optimizer in a user's training loop; 0 for a longer loop than could be tried, and for
            other data.
        loop_scores: Names of the metrics that such a loop yields beside its loss.
    """

    rows: int
    features: int
    task: TaskName
    outputs: int
    images: bool = False
    source: str = "scikit-learn"
    shape: tuple[int, ...] = ()
    characters: int = 0
    length: int = 0
    columns: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    task_reason: str = ""
    target_low: float | None = None
    target_outliers: Outliers | None = None
    tensors: tuple[tuple[int, ...], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    loop_steps: int = 0
    loop_scores: tuple[str, ...] = ()

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row, as a user's model gets it."""
        return self.shape or (self.features,)

    @property
    def training_rows(self) -> int:
        """Rows that are left to train on."""
        held_out = math.ceil(self.rows * HELD_OUT)
        return self.rows - held_out - math.ceil((self.rows - held_out) * HELD_OUT / (1 - HELD_OUT))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DatasetInfo:
        """Read the JSON values of ``dataclasses.asdict``. Facts that only another version knows are left out.

        Raises:
            OtherVersionError: A fact is missing, or this version does not know its value.
        """
        return read_stored(cls, stored, "the facts about the job's data")


def part_bounds(tokens: int) -> tuple[int, int]:
    """Return where the training part and the validation part of a text end."""
    held_out = int(tokens * HELD_OUT)
    return tokens - 2 * held_out, tokens - held_out
