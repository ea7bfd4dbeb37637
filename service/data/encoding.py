"""Makes numbers of the rows of a dataset: scaling, one-hot coding, hashing of words, class indices.

Whatever is learned for that, such as a mean, is learned from the training rows only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from service.data.arrays import PIECE_BYTES, AnyArray
from service.data.facts import TEXT_FEATURES, Column, ColumnKind
from service.data.prepared_files import Array, Rows
from service.spec.tasks import Task


@dataclass(frozen=True, slots=True)
class Encoder:
    """Makes features of rows, with what it learned from the training rows.

    Attributes:
        width: Number of features.
        transform: From rows to their features, rows x width.
    """

    width: int
    transform: Callable[[Rows], npt.NDArray[np.float64]]

    def write(self, rows: Rows, target: npt.NDArray[np.float32]) -> None:
        """Write the features of ``rows`` to ``target``, piece by piece."""
        for piece in pieces(len(rows), self.width):
            target[piece] = self.transform(rows[piece])


def pieces(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows that need at most about ``PIECE_BYTES`` as float64."""
    count = max(1, PIECE_BYTES // (width * 8))
    return (slice(start, start + count) for start in range(0, rows, count))


def scale_numbers(x: AnyArray, training: Rows, *, is_pixels: bool) -> Encoder:
    """Return what standardises the columns of ``x``.

    Pixels share one scale, so that a pixel that is nearly always dark is not blown up. Other columns are scaled one by
    one.

    Args:
        x: rows x features; may be mapped.
        training: The rows to learn mean and scale from.
        is_pixels: Whether the columns are pixels.
    """
    width = x.shape[1]
    scaler = StandardScaler()
    for piece in pieces(len(training), width):
        scaler.partial_fit(np.asarray(x[training[piece]], dtype=np.float64))
    if is_pixels:
        scaler.scale_ = np.full_like(scaler.scale_, np.sqrt(max(scaler.var_.mean(), 1e-12)))
    return Encoder(width, lambda rows: scaler.transform(np.asarray(x[rows], dtype=np.float64)))


def encode_columns(columns: Sequence[Column], values: Iterable[AnyArray], rows: int, training: Rows) -> Encoder:
    """Return what scales numbers, one-hot codes categories and hashes the words of texts.

    Args:
        columns: What the columns hold.
        values: Their values, as ``Table.column`` returns them.
        rows: Number of rows.
        training: The rows to learn medians, means and scales from.
    """
    only_numbers = all(column.kind is ColumnKind.NUMBER for column in columns)
    x = np.empty((rows, len(columns)), dtype=np.float64 if only_numbers else object)  # object: 32 bytes each
    for index, column in enumerate(values):
        x[:, index] = column
    transformer = _column_transformer(columns).fit(x[training])
    return Encoder(sum(column.width for column in columns), lambda rows: transformer.transform(x[rows]))


def _column_transformer(columns: Sequence[Column]) -> ColumnTransformer:
    """Return what makes as many features of each column as :attr:`Column.width` says, whatever the rows are."""
    numbers = [i for i, column in enumerate(columns) if column.kind is ColumnKind.NUMBER]
    holes = [i for i in numbers if columns[i].missing]
    steps: list[tuple[str, BaseEstimator, int | list[int]]] = []
    if numbers:
        scaled = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
        steps.append(("numbers", scaled, numbers))
    if holes:
        steps.append(("missing", MissingIndicator(features="all"), holes))
    for i, column in enumerate(columns):
        if column.kind is ColumnKind.CATEGORY:
            levels = sorted(column.levels or {})
            coder = OneHotEncoder(categories=[levels], handle_unknown="ignore", sparse_output=False)
            steps.append((f"category {i}", coder, [i]))
        elif column.kind is ColumnKind.TEXT:
            words = HashingVectorizer(n_features=TEXT_FEATURES, alternate_sign=True)
            steps.append((f"text {i}", words, i))
    return ColumnTransformer(steps, sparse_threshold=0.0)


@dataclass(frozen=True, slots=True)
class Target:
    """What a model predicts.

    Attributes:
        task: What the target is for.
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
