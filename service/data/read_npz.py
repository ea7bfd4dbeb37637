"""Reads NPZ files: the array ``x`` and, for labels or numbers, the array ``y``.

The file is unpacked in pieces, and nothing in it is ever unpickled.
"""

from __future__ import annotations

import shutil
import tokenize
from pathlib import Path
from typing import Final

import numpy as np

from service.data.archives import open_zip
from service.data.arrays import PIECE_BYTES, AnyArray, write_arrays
from service.data.facts import DatasetFacts
from service.errors import InvalidFileError

BAD_HEADER: Final = (ValueError, OSError, EOFError, TypeError, SyntaxError, tokenize.TokenError, RecursionError)
"""What numpy raises for a bad header, which it parses as Python."""


def read_npz(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Read an NPZ file; a reader of ``formats.py``."""
    with open_zip(source, max_bytes) as (archive, entries):
        names = [entry.filename for entry in entries]
        if "x.npy" not in names or set(names) - {"x.npy", "y.npy"}:
            found = ", ".join(name.removesuffix(".npy") for name in names[:10]) or "nothing"
            raise InvalidFileError(f"it holds {found}; expected the array x and, for labels or numbers, the array y")
        unpacked = {name: folder / f"raw-{name}" for name in names}
        for name, path in unpacked.items():
            with archive.open(name) as packed, path.open("wb") as file:
                shutil.copyfileobj(packed, file, PIECE_BYTES)
    x = _map(unpacked["x.npy"], "x")
    y = _map(unpacked["y.npy"], "y") if "y.npy" in unpacked else None
    facts = write_arrays(x, y, folder)
    for path in unpacked.values():
        path.unlink()
    return facts


def _map(path: Path, name: str) -> AnyArray:
    try:
        mapped: AnyArray = np.lib.format.open_memmap(path, mode="r")  # never pickle
    except BAD_HEADER as error:
        if "object" in str(error).lower():
            raise InvalidFileError(f"the array {name} holds pickled Python objects, which are never loaded") from error
        raise InvalidFileError(f"the array {name} cannot be read: {error}") from error
    if mapped.ndim == 0:
        raise InvalidFileError(f"the array {name} is a single value; expected one value or row for each sample")
    return mapped
