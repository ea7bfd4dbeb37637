"""The data of a job before anything is learned from it: columns, arrays, a text or an equation.

A bundled dataset, an upload and what user code makes are all opened here, as one of four sources. Those with rows make
numbers of them: they scale, one-hot code categories and hash words. What is learned for that, such as a mean, is
learned from the training rows only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
from sklearn import datasets
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from service.data.arrays import PIECE_BYTES, X_FILE, Y_FILE, AnyArray
from service.data.catalog import BUNDLED
from service.data.columns import TABLE_FILE, date_part, labels_of, retyped, values_of
from service.data.facts import TEXT_FEATURES, Column, ColumnKind, DatasetFacts, Layout
from service.data.prepared_files import Array, Rows
from service.data.read_text import TEXT_FILE
from service.registry import import_object
from service.spec.data import DatasetSpec
from service.spec.tasks import Task


@dataclass(frozen=True, slots=True)
class Encoder:
    """Makes features of rows, rows x ``width``, with what it learned from the training rows."""

    width: int
    transform: Callable[[Rows], npt.NDArray[np.float64]]

    def write(self, rows: Rows, target: npt.NDArray[np.float32]) -> None:
        """Write the features of ``rows`` to ``target``, piece by piece."""
        for piece in _pieces(len(rows), self.width):
            target[piece] = self.transform(rows[piece])


def _pieces(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows that need at most about ``PIECE_BYTES`` as float64."""
    count = max(1, PIECE_BYTES // (width * 8))
    return (slice(start, start + count) for start in range(0, rows, count))


@dataclass(frozen=True, slots=True)
class Target:
    """What a model predicts.

    Attributes:
        values: Class index or number of each row; None for autoencoding.
        labels: Names of the classes, by index.
    """

    task: str
    values: AnyArray | None = None
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, y: AnyArray | None, task: str) -> Target:
        """Return the target of raw labels or numbers."""
        if y is None or task != Task.CLASSIFICATION:
            return cls(task, y)
        labels, indices = np.unique(y, return_inverse=True)
        return cls(task, indices.astype(np.int64), tuple(map(str, labels)))

    @property
    def classes(self) -> AnyArray | None:
        """Class index of each row; None if there are no classes."""
        return self.values if self.task == Task.CLASSIFICATION else None

    def encode(self, training: Rows) -> Array:
        """Return the targets of all rows: class indices, or rows x 1 numbers standardised by the ``training`` rows."""
        assert self.values is not None, "autoencoding has no target"
        if self.task == Task.CLASSIFICATION:
            return self.values
        column = np.asarray(self.values, dtype=np.float64)[:, None]
        scaled: Array = StandardScaler().fit(column[training]).transform(column).astype(np.float32)
        return scaled


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of numbers and texts, in memory; ``columns`` says what they hold, without the target."""

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
        if any(column.name == name and column.is_numeric for column in self.columns):
            numbers: AnyArray = values.cast(pa.float64(), safe=False).to_numpy()
            return numbers
        return np.array(["" if value is None else value for value in values.to_pylist()], dtype=object)

    def encoder(self, training: Rows, without: str | None = None) -> Encoder:
        """Return what makes features of the columns, except ``without``, learned from the ``training`` rows."""
        used = [column for column in self.columns if column.width and column.name != without]
        parts = [(column, part) for column in used for part in (column.parts or ("",))]
        only_numbers = all(column.is_numeric for column in used)
        x = np.empty((self.rows, len(parts)), dtype=np.float64 if only_numbers else object)  # object: 32 bytes each
        for index, (column, part) in enumerate(parts):
            values = self.column(column.name)
            x[:, index] = date_part(part, values) if part else values
        transformer = _column_transformer([column for column, _ in parts]).fit(x[training])
        return Encoder(sum(column.width for column in used), lambda rows: transformer.transform(x[rows]))


def _column_transformer(columns: Sequence[Column]) -> ColumnTransformer:
    """Return what makes as many features of each column as :attr:`Column.width` says, whatever the rows are.

    A date is there once for each of its parts; whether it is missing is one feature.
    """
    numbers = [i for i, column in enumerate(columns) if column.is_numeric]
    holes = [i for i in numbers if columns[i].missing and columns[i] not in columns[:i]]
    steps: list[tuple[str, BaseEstimator, int | list[int]]] = []
    if numbers:
        scaled = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
        steps.append(("numbers", scaled, numbers))
    if holes:
        steps.append(("missing", MissingIndicator(features="all"), holes))
    for i, column in enumerate(columns):
        if column.kind is ColumnKind.CATEGORY and column.levels is not None:
            coder = OneHotEncoder(categories=[sorted(column.levels)], handle_unknown="ignore", sparse_output=False)
            steps.append((f"category {i}", coder, [i]))
        elif not column.is_numeric:
            pattern = r"(?s).+" if column.kind is ColumnKind.CATEGORY else r"(?u)\b\w\w+\b"  # a whole value, or words
            words = HashingVectorizer(n_features=TEXT_FEATURES, alternate_sign=True, token_pattern=pattern)
            steps.append((f"text {i}", words, i))
    return ColumnTransformer(steps, sparse_threshold=0.0)


@dataclass(frozen=True, slots=True)
class Arrays:
    """Rows of numbers, in memory or mapped.

    Attributes:
        x: rows x features.
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
        """Return what standardises the columns, except ``without``, by mean and scale of the ``training`` rows.

        Pixels share one scale, so that a pixel that is nearly always dark is not blown up. Other columns are scaled
        one by one.
        """
        x = self.x if without is None else np.delete(self.x, self.names.index(without), axis=1)
        width = x.shape[1]
        scaler = StandardScaler()
        for piece in _pieces(len(training), width):
            scaler.partial_fit(np.asarray(x[training[piece]], dtype=np.float64))
        if self.is_pixels:
            scaler.scale_ = np.full_like(scaler.scale_, np.sqrt(max(scaler.var_.mean(), 1e-12)))
        return Encoder(width, lambda rows: scaler.transform(np.asarray(x[rows], dtype=np.float64)))


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


def hold_out(rows: Rows, share: float, seed: int, strata: AnyArray | None) -> tuple[Rows, Rows]:
    """Return the rows that are left and those that are held out, in the order in which they were drawn.

    ``strata`` has the group of each row of the source, of which the same share is held out; None draws without groups.
    """
    stratify = None if strata is None else strata[rows]
    left, held_out = train_test_split(rows, test_size=share, random_state=seed, stratify=stratify)
    return left, held_out


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
    """Open a dataset folder, which the rows of arrays are read from later.

    ``chosen`` names the target of a table and what its columns are taken for; ``task`` is what the target is for.
    """
    facts = retyped(DatasetFacts.load(folder), chosen.columns, folder).chosen(chosen)
    if facts.layout is Layout.TEXT:
        return Text((folder / TEXT_FILE).read_bytes())
    target = None if task == Task.AUTOENCODING else facts.target(chosen.target)
    if facts.layout is Layout.TABLE:
        features = facts.features(target)
        with pyarrow.parquet.ParquetFile(
            folder / TABLE_FILE
        ) as file:  # one column at a time, as texts take much memory
            values = pa.table({column.name: values_of(column, _stored(file, column)) for column in features})
            y = None if target is None else labels_of(target, _stored(file, target)).to_numpy(zero_copy_only=False)
        return Table(features, values, Target.of(y, task))
    x = np.load(folder / X_FILE, mmap_mode="r", allow_pickle=False)
    y = None if target is None else np.load(folder / Y_FILE, allow_pickle=False)
    return Arrays(x, Target.of(y, task), len(facts.shape) == 3)


def _stored(file: pyarrow.parquet.ParquetFile, column: Column) -> pa.Array:
    return file.read(columns=[column.name]).column(0).combine_chunks()
