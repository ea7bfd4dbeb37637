# An NPZ file becomes two .npy files that can be memory-mapped: `x`, flat rows of float32 or bytes, and the labels `y`.
# It is read in pieces; nothing in it is ever unpickled.
"""NPZ files: unpacking, checking, describing."""

from __future__ import annotations

import math
import shutil
import tokenize
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.data.archives import open_zip
from service.data.facts import EXACT, LARGEST, MAX_LEVELS, MIN_ROWS, Column, ColumnKind, DatasetFacts, Layout
from service.errors import InvalidFileError

X_FILE: Final = "x.npy"
Y_FILE: Final = "y.npy"
"""Names of the files that arrays are kept in."""

BAD_HEADER: Final = (ValueError, OSError, EOFError, TypeError, SyntaxError, tokenize.TokenError, RecursionError)
"""What numpy raises for a header, which it parses as Python."""

PIECE_BYTES: Final = 1 << 24
"""Bytes of ``x`` that are looked at at once."""


def read_npz(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Unpack the arrays ``x`` and, if there is one, ``y``, and keep them in ``folder``.

    Args:
        source: The file.
        folder: Where to keep them.
        max_bytes: Most bytes that the file may have unpacked.

    Raises:
        InvalidFileError: It cannot be read, or holds something else.
    """
    with open_zip(source, max_bytes) as (archive, entries):
        names = [entry.filename for entry in entries]
        if "x.npy" not in names or set(names) - {"x.npy", "y.npy"}:
            found = ", ".join(name.removesuffix(".npy") for name in names[:10]) or "nothing"
            raise InvalidFileError(f"it holds {found}; expected the array x and, for labels or numbers, the array y")
        for name in names:
            with archive.open(name) as packed, (folder / f"raw-{name}").open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, PIECE_BYTES)
    x = _map(folder / "raw-x.npy", "x")
    y = _map(folder / "raw-y.npy", "y") if "y.npy" in names else None
    shape = write_rows(x, folder / X_FILE)
    columns: tuple[Column, ...] = ()
    if y is not None:
        if y.shape != (len(x),):
            raise InvalidFileError(f"y has the shape {y.shape}; expected one value for each of the {len(x)} rows of x")
        columns = (write_labels(np.asarray(y), folder / Y_FILE, "y"),)
    for name in names:
        (folder / f"raw-{name}").unlink()
    return DatasetFacts(layout=Layout.ARRAYS, rows=len(x), columns=columns, shape=shape)


def _map(path: Path, name: str) -> npt.NDArray[Any]:
    try:
        mapped: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # never pickle
    except BAD_HEADER as error:
        if "object" in str(error).lower():
            raise InvalidFileError(f"the array {name} holds pickled Python objects, which are never loaded") from error
        raise InvalidFileError(f"the array {name} cannot be read: {error}") from error
    if mapped.ndim == 0:
        raise InvalidFileError(f"the array {name} has no rows; it is a single value")
    return mapped


def write_rows(x: npt.NDArray[Any], target: Path) -> tuple[int, ...]:
    """Write ``x`` as flat rows, channels first, piece by piece; return the shape of one row.

    Raises:
        InvalidFileError: It is no array of rows of finite numbers.
    """
    if x.dtype.kind not in "buif" or not 2 <= x.ndim <= 4:
        raise InvalidFileError(f"x is of {x.dtype} with {x.ndim} axes; expected numbers with 2 to 4 axes, rows first")
    if len(x) < MIN_ROWS or not math.prod(x.shape):
        raise InvalidFileError(f"x has the shape {x.shape}; expected {MIN_ROWS} rows at least, none of them empty")
    last = x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
    rows, width = len(x), math.prod(x.shape[1:])
    kept = np.uint8 if x.dtype in (np.uint8, np.bool_) else np.float32
    flat = np.lib.format.open_memmap(target, mode="w+", dtype=kept, shape=(rows, width))
    count = max(1, PIECE_BYTES // (width * x.dtype.itemsize))
    for start in range(0, rows, count):
        piece = x[start : start + count]
        with np.errstate(over="ignore"):
            numbers = (piece.transpose(0, 3, 1, 2) if last else piece).reshape(len(piece), width).astype(kept)
        if kept is np.float32 and not np.isfinite(numbers).all():
            row, column = np.argwhere(~np.isfinite(numbers))[0].tolist()
            wrong = f"x is {numbers[row, column]} in row {start + row + 1}, column {column + 1}"
            raise InvalidFileError(f"{wrong}; expected a finite number of 32 bits")
        flat[start : start + count] = numbers
    flat.flush()
    shape = x.shape[1:] if x.ndim != 3 else (1, *x.shape[1:])
    return (shape[2], shape[0], shape[1]) if last else tuple(shape)


def write_labels(y: npt.NDArray[Any], target: Path, name: str) -> Column:
    """Write the labels and return what they are.

    Raises:
        InvalidFileError: They are no numbers or texts, one is not finite, or they are all the same.
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
    )
