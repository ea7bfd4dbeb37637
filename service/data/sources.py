"""The data of a job before anything is learned from it: columns, arrays, a text or an equation.

A bundled dataset, an upload and what user code makes are all opened here, as one of four sources. Those with rows make
numbers of them: they scale, one-hot code categories and hash words. What is learned for that, such as a mean, is
learned from the training rows only.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
from sklearn import datasets
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from service.data.arrays import PIECE_BYTES, X_FILE, Y_FILE, AnyArray
from service.data.catalog import BUNDLED
from service.data.columns import TABLE_FILE, labels_of, retyped, values_of
from service.data.encoding import (
    VALUE,
    FittedArrays,
    FittedColumn,
    FittedPart,
    FittedTable,
    FittedTarget,
    array_features,
    part_of,
    table_features,
)
from service.data.facts import Column, ColumnKind, DatasetFacts, Form, Layout, Reading
from service.data.forms import CLOCK, Numbers
from service.data.prepared_files import Array, Rows
from service.data.read_table import NULLS
from service.data.read_text import TEXT_FILE
from service.data.splits import AT_RANDOM, RowSplit, SplitError, identical_arrays, identical_rows
from service.errors import InvalidSpecError, JobFailedError, conflict
from service.registry import import_object
from service.spec.data import DatasetSpec
from service.spec.tasks import Task

QUANTILES: Final = 1000
"""Most quantiles that a target is mapped by; scikit-learn's default."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Makes features of rows, rows x ``width``, with what it learned from the training rows: ``fitted``."""

    width: int
    transform: Callable[[Rows], Numbers]
    fitted: FittedTable | FittedArrays

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
        name: Its column, if it has a name.
    """

    task: str
    values: AnyArray | None = None
    labels: tuple[str, ...] = ()
    name: str | None = None

    @classmethod
    def of(cls, y: AnyArray | None, task: str, name: str | None = None) -> Target:
        """Return the target of raw labels or numbers."""
        if y is None or task != Task.CLASSIFICATION:
            return cls(task, y, name=name)
        labels, indices = np.unique(y, return_inverse=True)
        return cls(task, indices.astype(np.int64), tuple(map(str, labels)), name)

    @property
    def classes(self) -> AnyArray | None:
        """Class index of each row; None if there are no classes."""
        return self.values if self.task == Task.CLASSIFICATION else None

    def encode(self, training: Rows, transform: str = "standardise") -> tuple[Array, dict[str, AnyArray]]:
        """Return the targets of all rows, and the array that undoes their transform, under its name.

        The targets are class indices, or rows x 1 numbers that are transformed as the ``training`` rows ask for.

        Raises:
            JobFailedError: The transform is log1p, and a number is -1 or less.
        """
        assert self.values is not None, "autoencoding has no target"
        if self.task == Task.CLASSIFICATION:
            return self.values, {}
        column = np.asarray(self.values, dtype=np.float64)[:, None]
        if transform == "quantile":
            count = min(QUANTILES, len(training))
            quantiles = QuantileTransformer(n_quantiles=count, output_distribution="normal", subsample=None)
            even = quantiles.fit(column[training]).transform(column).astype(np.float32)
            return even, {transform: quantiles.quantiles_[:, 0]}
        if transform == "log1p":
            if column.min() <= -1:
                raise JobFailedError(f"dataset.target_transform: log1p needs targets above -1, one is {column.min():g}")
            column = np.log1p(column)
        scaler = StandardScaler().fit(column[training])
        fitted = np.concatenate([scaler.mean_, scaler.scale_])
        return scaler.transform(column).astype(np.float32), {transform: fitted}

    def fitted(self, learned: Mapping[str, AnyArray]) -> FittedTarget:
        """Return what the encoded targets stand for; ``learned`` is what ``encode`` returned with them."""
        undo = {name: values.tolist() for name, values in learned.items()}
        return FittedTarget(name=self.name, classes=list(self.labels), transform=undo)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of numbers and texts, in memory.

    Attributes:
        columns: What they hold, without the target.
        reading: How their file was read.
        kept_as_numbers: Names of those whose cells were kept as numbers, not as texts.
        names: Names of all columns of the file.
    """

    columns: Sequence[Column]
    values: pa.Table
    target: Target
    split: RowSplit = AT_RANDOM
    reading: Reading = field(default_factory=Reading)
    kept_as_numbers: Container[str] = ()
    names: Sequence[str] = ()

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
        cells = {column.name: self.values.column(column.name).combine_chunks() for column in used}
        learned_from = {name: values.take(pa.array(training)) for name, values in cells.items()}
        columns = _fit_columns(used, learned_from, self.kept_as_numbers)
        table = FittedTable(
            columns=columns,
            encoding=self.reading.encoding or "utf-8",
            delimiter=self.reading.delimiter or ",",
            missing=list(NULLS if self.reading.na_values is None else self.reading.na_values),
        )
        if self.reading.header == "none":
            table["names"] = list(self.names)

        def transform(rows: Rows) -> Numbers:
            return table_features(columns, {name: values.take(pa.array(rows)) for name, values in cells.items()})

        return Encoder(sum(column.width for column in used), transform, table)


def _fit_columns(
    columns: Sequence[Column], cells: Mapping[str, pa.Array], kept_as_numbers: Container[str]
) -> list[FittedColumn]:
    """Return how columns become features; each becomes :attr:`Column.width`, whatever the rows are.

    ``cells`` are the values of the training rows.
    """
    parts = [(c.name, part) for c in columns if c.is_numeric for part in c.parts or (VALUE,)]
    fitted: dict[str, list[FittedPart]] = {column.name: [] for column in columns}
    if parts:
        x = np.array([part_of(cells[name], part) for name, part in parts]).T
        imputer = SimpleImputer(strategy="median", keep_empty_features=True).fit(x)
        scaler = StandardScaler().fit(imputer.transform(x))
        learned = zip(parts, imputer.statistics_, scaler.mean_, scaler.scale_, strict=True)
        for (name, part), median, mean, scale in learned:
            fitted[name].append(FittedPart(part=part, median=float(median), mean=float(mean), scale=float(scale)))
    return [
        FittedColumn(
            name=column.name,
            kind=str(column.kind),
            form=asdict(column.form or Form(date=_date_of_typed(column))),
            was_numeric=column.name in kept_as_numbers,
            parts=fitted[column.name],
            marks_missing=column.missing > 0,
            levels=sorted(column.levels) if column.kind is ColumnKind.CATEGORY and column.levels is not None else None,
        )
        for column in columns
    ]


def _date_of_typed(column: Column) -> str:
    """Return how new rows may write the times of a column that a file with types had; empty for other columns."""
    if column.kind is ColumnKind.DATE:
        return "yyyy-mm-dd"
    return CLOCK if column.type.startswith(("time32", "time64", "duration")) else ""


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
    split: RowSplit = AT_RANDOM

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
        names = [name for name in self.names if name != without]
        fitted = FittedArrays(names=names, mean=scaler.mean_.tolist(), scale=scaler.scale_.tolist())
        return Encoder(width, lambda rows: array_features(fitted, x[rows]), fitted)


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
    """Open a dataset folder, which the rows of arrays are read from later.

    ``chosen`` names the target of a table and what its columns are taken for; ``task`` is what the target is for.
    """
    all_facts = retyped(DatasetFacts.load(folder), chosen.columns, folder)
    facts = all_facts.chosen(chosen)
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
            by = _split_values(file, all_facts, chosen)
            names = file.schema_arrow.names
            numbers = {field.name for field in file.schema_arrow if not pa.types.is_string(field.type)}
        name = None if target is None else target.name
        of = Target.of(y, task, name)
        table = Table(features, values, of, reading=facts.reading, kept_as_numbers=numbers, names=names)
        return replace(table, split=_row_split(table, chosen.split.by, by))
    x = np.load(folder / X_FILE, mmap_mode="r", allow_pickle=False)
    y = None if target is None else np.load(folder / Y_FILE, allow_pickle=False)
    split = RowSplit(together=identical_arrays(x))
    return Arrays(x, Target.of(y, task), len(facts.shape) == 3, split=split)


def _split_values(file: pyarrow.parquet.ParquetFile, facts: DatasetFacts, chosen: DatasetSpec) -> AnyArray | None:
    """Return the column that the rows are split by; None for a random split."""
    if chosen.split.by == "random":
        return None
    column = next(column for column in facts.columns if column.name == chosen.split.column)
    by: AnyArray = values_of(column, _stored(file, column)).to_numpy(zero_copy_only=False)
    return by


def check_split(facts: DatasetFacts, chosen: DatasetSpec, folder: Path, seed: int) -> None:
    """Draw a split of a table by a column, to find out whether training can have every class.

    Only this column and the target are read, so identical rows of different groups are not known here.

    Raises:
        InvalidSpecError: It cannot.
    """
    target = facts.chosen(chosen).target(chosen.target)
    assert target is not None, "only classes are checked"
    with pyarrow.parquet.ParquetFile(folder / TABLE_FILE) as file:
        y = labels_of(target, _stored(file, target)).to_numpy(zero_copy_only=False)
        by = _split_values(file, facts, chosen)
    of = Target.of(y, Task.CLASSIFICATION)
    try:
        RowSplit(chosen.split.by, by).parts(len(y), seed, of.classes, of.labels)
    except SplitError as error:
        raise InvalidSpecError(conflict("dataset.split.by", chosen.split.by, error.wrong)) from None


def _row_split(table: Table, by: str, values: AnyArray | None) -> RowSplit:
    seen = (table.column(column.name) for column in table.columns if column.width)
    return RowSplit(by, values, identical_rows(seen) if by in ("random", "group") else None)


def _stored(file: pyarrow.parquet.ParquetFile, column: Column) -> pa.Array:
    return file.read(columns=[column.name]).column(0).combine_chunks()
