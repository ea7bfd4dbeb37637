"""The data of a job before anything is learned from it: columns, arrays, a text or an equation.

A bundled dataset, an upload and what user code makes are all opened here, as one of four sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from sklearn import datasets

from service.data.arrays import X_FILE, Y_FILE, AnyArray
from service.data.catalog import BUNDLED
from service.data.encoding import Encoder, Target, encode_columns, scale_numbers
from service.data.facts import Column, ColumnKind, DatasetFacts, Layout
from service.data.prepared_files import Rows
from service.data.read_table import TABLE_FILE
from service.data.read_text import TEXT_FILE
from service.registry import import_object
from service.spec.data import DatasetSpec
from service.spec.tasks import Task


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of numbers, categories and texts, in memory.

    Attributes:
        columns: What the columns hold, without the target.
        values: The columns.
        target: What a model predicts.
    """

    columns: Sequence[Column]
    values: pa.Table
    target: Target

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.values.num_rows)

    def column(self, name: str) -> AnyArray:
        """Return the values of a column: numbers, NaN where one is missing, or texts, "" where one is."""
        values = self.values.column(name)
        if any(column.name == name and column.kind is ColumnKind.NUMBER for column in self.columns):
            numbers: AnyArray = values.cast(pa.float64(), safe=False).to_numpy()
            return numbers
        return np.array(["" if value is None else value for value in values.to_pylist()], dtype=object)

    def encoder(self, training: Rows, without: str | None = None) -> Encoder:
        """Return what makes features of the columns, except ``without``, learned from the ``training`` rows."""
        used = [column for column in self.columns if column.width and column.name != without]
        return encode_columns(used, (self.column(column.name) for column in used), self.rows, training)


@dataclass(frozen=True, slots=True)
class Arrays:
    """Rows of numbers, in memory or mapped.

    Attributes:
        x: rows x features.
        target: What a model predicts.
        is_pixels: Whether the columns are pixels.
        names: Names of the columns, if they have some.
        keeps_draw_order: Whether the rows of a part stay in the order in which they were drawn, as those of bundled
            datasets do. Others are sorted, so that a mapped file is read from its beginning to its end.
    """

    x: AnyArray
    target: Target
    is_pixels: bool
    names: Sequence[str] = ()
    keeps_draw_order: bool = False

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.x)

    def column(self, name: str) -> AnyArray:
        """Return the values of a column."""
        return self.x[:, self.names.index(name)]

    def encoder(self, training: Rows, without: str | None = None) -> Encoder:
        """Return what makes features of the columns, except ``without``, learned from the ``training`` rows."""
        x = self.x if without is None else np.delete(self.x, self.names.index(without), axis=1)
        return scale_numbers(x, training, is_pixels=self.is_pixels)


@dataclass(frozen=True, slots=True)
class Text:
    """A text in UTF-8."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Equation:
    """A differential equation, of which points are drawn."""

    name: str


RowSource = Table | Arrays
"""A source with rows, which can be grouped into tasks."""

Source = RowSource | Text | Equation


DIGITS: Final = partial(datasets.load_digits, return_X_y=True)
BREAST_CANCER: Final = partial(datasets.load_breast_cancer, return_X_y=True)
WINE: Final = partial(datasets.load_wine, return_X_y=True)
DIABETES: Final = partial(datasets.load_diabetes, return_X_y=True)


def bundled_source(name: str) -> Arrays | Equation:
    """Open a bundled dataset."""
    info, load = BUNDLED[name].info, BUNDLED[name].load
    if load is None:
        return Equation(name)
    x, y = import_object(load)()
    target = Target.of(np.asarray(y), info.task)
    return Arrays(np.asarray(x, dtype=np.float64), target, info.images, info.columns, keeps_draw_order=True)


def stored_source(folder: Path, chosen: DatasetSpec, task: str) -> Table | Arrays | Text:
    """Open a dataset folder.

    Args:
        folder: The folder; the rows of arrays are read from it later.
        chosen: Target of a table, and columns that are not features.
        task: What the target is for.
    """
    facts = DatasetFacts.load(folder).without(chosen.exclude)
    if facts.layout is Layout.TEXT:
        return Text((folder / TEXT_FILE).read_bytes())
    target = None if task == Task.AUTOENCODING else facts.target(chosen.target)
    if facts.layout is Layout.TABLE:
        table = pyarrow.parquet.read_table(folder / TABLE_FILE, columns=[column.name for column in facts.columns])
        y = None if target is None else table.column(target.name).to_numpy()
        return Table(facts.features(target), table, Target.of(y, task))
    x = np.load(folder / X_FILE, mmap_mode="r", allow_pickle=False)
    y = None if target is None else np.load(folder / Y_FILE, allow_pickle=False)
    return Arrays(x, Target.of(y, task), len(facts.shape) == 3)
