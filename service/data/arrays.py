"""The files of a dataset that is kept as arrays: ``x.npy``, flat rows of numbers, and ``y.npy``, the labels.

Both can be memory-mapped. They are checked and written piece by piece, so ``x`` may be larger than the memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.data.facts import EXACT, LARGEST, MAX_LEVELS, MIN_ROWS, Column, ColumnKind, DatasetFacts, Layout
from service.errors import InvalidFileError
from service.spec.dataset_info import MOST_OF_IT, Outliers

X_FILE: Final = "x.npy"
Y_FILE: Final = "y.npy"

PIECE_BYTES: Final = 1 << 24
"""Bytes of an array that are in memory at once."""

MOST_OUTLIERS: Final = 3
"""Most rows that count as outliers; at most one in 100 rows does, but for small tables."""

FAR: Final = 5.0
"""How many times as far from the median as all other values the outliers are."""

AnyArray = npt.NDArray[Any]


def write_arrays(x: AnyArray, y: AnyArray | None, folder: Path) -> DatasetFacts:
    """Check rows and labels and write them to a dataset folder; return what they are.

    Args:
        x: rows x features, rows x height x width, or rows x channels x height x width (channels may be last).
        y: One label or number for each row; None for rows without any.
        folder: Where to write.

    Raises:
        InvalidFileError: They cannot be trained on.
    """
    shape = _write_rows(x, folder / X_FILE)
    if y is None:
        return DatasetFacts(layout=Layout.ARRAYS, rows=len(x), shape=shape)
    if y.shape != (len(x),):
        raise InvalidFileError(f"y has the shape {y.shape}; expected one value for each of the {len(x)} rows of x")
    column = write_labels(np.asarray(y), folder / Y_FILE, "y")
    return DatasetFacts(layout=Layout.ARRAYS, rows=len(x), columns=(column,), shape=shape)


def _write_rows(x: AnyArray, target: Path) -> tuple[int, ...]:
    """Write ``x`` as flat rows, channels first; return the shape of one row."""
    if x.dtype.kind not in "buif" or not 2 <= x.ndim <= 4:
        raise InvalidFileError(f"x is of {x.dtype} with {x.ndim} axes; expected numbers with 2 to 4 axes, rows first")
    if len(x) < MIN_ROWS or not math.prod(x.shape):
        raise InvalidFileError(f"x has the shape {x.shape}; expected at least {MIN_ROWS} rows that are not empty")
    x = channels_first(x)
    rows, width = len(x), math.prod(x.shape[1:])
    count = max(1, PIECE_BYTES // (width * x.dtype.itemsize))
    pieces = [slice(start, start + count) for start in range(0, rows, count)]
    kept = _kept_type(x, pieces)
    flat = np.lib.format.open_memmap(target, mode="w+", dtype=kept, shape=(rows, width))
    for piece in pieces:
        numbers = x[piece].reshape(-1, width).astype(kept)
        odd = ~is_finite(numbers)
        if odd.any():
            row, column = np.argwhere(odd)[0].tolist()
            wrong = f"x is {numbers[row, column]} in row {piece.start + row + 1}, column {column + 1}"
            raise InvalidFileError(f"{wrong}; expected a finite number of 32 bits")
        flat[piece] = numbers
    flat.flush()
    return (1, *x.shape[1:]) if x.ndim == 3 else tuple(x.shape[1:])


def _kept_type(x: AnyArray, pieces: Sequence[slice]) -> type[np.generic]:
    """Return the type that rows are kept in: 8 or 32 bits if no number is rounded by that, or else 64."""
    if x.dtype in (np.uint8, np.bool_):
        return np.uint8
    if np.can_cast(x.dtype, np.float32):
        return np.float32
    with np.errstate(over="ignore"):
        is_exact = all((x[piece].astype(np.float32) == x[piece]).all() for piece in pieces)
    return np.float32 if is_exact else np.float64


def is_finite(x: AnyArray) -> npt.NDArray[np.bool_]:
    """Return which numbers are finite as floats of 32 bits, which features are."""
    with np.errstate(over="ignore"):
        finite: npt.NDArray[np.bool_] = np.isfinite(x.astype(np.float32, copy=False) if x.dtype.kind == "f" else x)
    return finite


def channels_first(x: AnyArray) -> AnyArray:
    """Return images that have their channels last with the channels first; other arrays as they are."""
    is_last = x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
    return x.transpose(0, 3, 1, 2) if is_last else x


def write_labels(y: AnyArray, target: Path, name: str) -> Column:
    """Write labels or numbers and return what they are.

    Raises:
        InvalidFileError: They are neither numbers nor texts, one is not finite, or they are all the same.
    """
    if y.dtype.kind not in "buifU":
        raise InvalidFileError(f"{name} is of {y.dtype}; expected numbers or texts")
    numbers = y.dtype.kind != "U"
    dtype = str(y.dtype)
    if y.dtype.kind == "f" or (y.dtype.kind in "iu" and max(abs(int(y.min())), int(y.max())) > EXACT):
        y = y.astype(np.float64)
        usable = np.abs(y) <= LARGEST  # False for NaN
        if not usable.all():
            row = int(np.argmin(usable))
            raise InvalidFileError(f"{name} is {y[row]:g} in row {row + 1}; expected a finite number of 32 bits")
    values, counts = np.unique(y, return_counts=True)
    if len(values) < 2:
        raise InvalidFileError(f"{name} has one class only, {values[0].item()!r}; expected two or more")
    np.save(target, y.astype(np.int64) if y.dtype.kind in "bui" else y, allow_pickle=False)
    few = len(values) <= MAX_LEVELS
    kind = ColumnKind.NUMBER if numbers else (ColumnKind.CATEGORY if few else ColumnKind.TEXT)
    return Column(
        name=name,
        kind=kind,
        type=dtype,
        distinct=len(values),
        whole=numbers and bool((values == np.floor(values)).all()),
        levels={str(value): int(count) for value, count in zip(values, counts, strict=True)} if few else None,
        low=float(values[0]) if numbers else None,
        high=float(values[-1]) if numbers else None,
        outliers=find_outliers(y) if numbers else None,
    )


def find_outliers(values: AnyArray) -> Outliers | None:
    """Return the few values that are far from all others and hold half of the squared distances to the median.

    None if there are no such values, as in a heavy tail, whose values are near the next ones.

    >>> find_outliers(np.array([1.0, 2.0, 3.0, 2.0, 102.0]))
    Outliers(value=102.0, rows=1, squares=0.99980004, distances=0.98039216)
    """
    values = np.sort(np.asarray(values, dtype=np.float64))  # numpy sorts faster than it finds the median
    if not len(values) or values[0] == values[-1]:
        return None
    middle = len(values) // 2
    median = values[middle] if len(values) % 2 else values[middle - 1] / 2 + values[middle] / 2
    most = min(MOST_OUTLIERS, max(1, len(values) // 100))
    ends = np.concatenate([values[: most + 1], values[most + 1 :][-most - 1 :]])
    top = np.sort(np.abs(ends - median))[: -most - 2 : -1]
    gaps = np.flatnonzero(top[:most] >= FAR * top[1:])
    if not len(gaps):
        return None
    rows = int(gaps[0]) + 1
    shares = np.sort(np.abs(values - median) / top[0])  # of the largest, so that no square is too large
    squares, share = ((shares[-rows:] ** power).sum() / (shares**power).sum() for power in (2, 1))
    if squares < MOST_OF_IT:
        return None
    value = float(values[-1] if values[-1] - median == top[0] else values[0])
    return Outliers(value=value, rows=rows, squares=round(float(squares), 8), distances=round(float(share), 8))
