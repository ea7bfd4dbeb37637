"""The NPZ file with the prepared arrays of a job: written by the worker, mapped into memory by every run.

The file is not compressed, and every array in it begins at a multiple of 64 bytes, so it can be memory-mapped. Equal
arrays give equal bytes.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from service.artifacts import local_path, read_file
from service.data.arrays import AnyArray

SPLIT_PARTS: Final = ("train", "val", "test")

SPLIT_ARRAYS: Final = tuple(f"{axis}_{part}" for part in SPLIT_PARTS for axis in "xy")
"""Arrays of a split: ``x_*`` are rows x features, ``y_*`` class indices or transformed targets."""

TARGET_TRANSFORMS: Final = ("standardise", "log1p", "quantile")
"""Names of the target transforms; an array of this name has what the transform was fitted to."""

TARGET_ARRAYS: Final = (*(f"target_{part}" for part in SPLIT_PARTS), *TARGET_TRANSFORMS)
"""Arrays that only some splits have: targets in their own units, and what brings ``y_*`` back to these."""

FAMILY_PARTS: Final = ("meta_train", "meta_validation", "meta_test")
"""The parts of a family, in the order of the numbers that stand for them in a file."""

ALIGNMENT: Final = 64
"""Bytes that the arrays are aligned to."""

PADDING_ID: Final = 0xD935
"""Id of a zip entry's extra field that holds padding only; the one that Android's zipalign uses."""

Rows = npt.NDArray[np.int64]
"""Indices of rows."""

Array = npt.NDArray[np.float32] | npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TaskArrays:
    """The arrays of one task of a family."""

    x_train: Array
    y_train: Array
    x_held_out: Array
    y_held_out: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The arrays of a family. The rows are encoded once and shared by the tasks.

    Attributes:
        y: Class index or standardised target of each row.
        held_out: Whether a row is never trained on; the same in every task.
        rows: The rows of all tasks, task after task.
        sizes: Number of rows of each task.
        classes: tasks x ways: the classes that become 0, 1, ... in each task; no columns if labels stay as they are.
        parts: Part of each task, an index into ``FAMILY_PARTS``.
    """

    x: Array
    y: Array
    held_out: npt.NDArray[np.bool_]
    rows: Rows
    sizes: Rows
    classes: Rows
    parts: Rows

    def tasks(self, part: str) -> list[TaskArrays]:
        """Return the tasks of a part."""
        ends = np.cumsum(self.sizes)
        chosen = np.flatnonzero(self.parts == FAMILY_PARTS.index(part)).tolist()
        return [self._task(index, self.rows[ends[index] - self.sizes[index] : ends[index]]) for index in chosen]

    def _task(self, index: int, rows: Rows) -> TaskArrays:
        held_out, x, y = self.held_out[rows], self.x[rows], self.y[rows]
        if self.classes.shape[1]:
            order = self.classes[index]
            by_class = np.argsort(order)
            y = by_class[np.searchsorted(order, y, sorter=by_class)]
        return TaskArrays(x[~held_out], y[~held_out], x[held_out], y[held_out])

    def pack(self, folder: Path, target: Path) -> str:
        """Write the family to an NPZ file, with temporary files in ``folder``; return the file's SHA-256."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        save_arrays(arrays, folder)
        return pack_arrays(folder, arrays, target)


def save_arrays(arrays: Mapping[str, AnyArray], folder: Path) -> None:
    """Write arrays as .npy files."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def pack_arrays(folder: Path, names: Iterable[str], target: Path) -> str:
    """Put .npy files into one NPZ file, piece by piece; return its SHA-256."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in names:
            entry = zipfile.ZipInfo(f"{name}.npy")  # of 1980: no clock gets into the file
            header = 30 + len(entry.filename) + 20 + 4  # with what zipfile adds for a file that may be over 4 GiB
            padding = -(archive.start_dir + header) % ALIGNMENT
            entry.extra = struct.pack("<HH", PADDING_ID, padding) + bytes(padding)
            with (folder / entry.filename).open("rb") as source, archive.open(entry, "w", force_zip64=True) as packed:
                shutil.copyfileobj(source, packed, 1 << 20)
    return _sha256(target)


@lru_cache(maxsize=2)
def load_arrays(url: str, sha256: str) -> Mapping[str, AnyArray]:
    """Map the arrays of a file of the artifact store into memory; those of the last two files stay mapped.

    If the store is not a local folder, a copy is mapped. It is deleted at once, and its space on the disk is free when
    nothing maps it any more.

    Raises:
        ValueError: The file is not the one that was prepared for the job.
    """
    path, is_local = local_path(url)
    if is_local:
        return _map_checked(path, sha256)
    with tempfile.TemporaryDirectory(prefix="warptune-data-") as folder:
        copy = Path(folder) / "data.npz"
        read_file(url, copy)
        return _map_checked(copy, sha256)


def split_arrays(folder: Path) -> list[str]:
    """Return the names of the arrays of a split that are in a folder."""
    return [*SPLIT_ARRAYS, *(name for name in TARGET_ARRAYS if (folder / f"{name}.npy").exists())]


def load_family(url: str, sha256: str) -> Family:
    """Map a family into memory, as ``load_arrays`` does."""
    arrays: Mapping[str, Any] = load_arrays(url, sha256)
    return Family(**arrays)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _map_checked(path: Path, sha256: str) -> dict[str, AnyArray]:
    digest = _sha256(path)
    if digest != sha256:
        raise ValueError(f"the prepared data has changed: its SHA-256 is {digest}, expected {sha256}")
    arrays: dict[str, AnyArray] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            file.seek(entry.header_offset + 26)
            name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
            file.seek(name_bytes + extra_bytes, 1)
            np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            order: Literal["F", "C"] = "F" if fortran else "C"
            # "c": the mapped array can be written to, which torch asks for, and no write reaches the file
            arrays[entry.filename.removesuffix(".npy")] = (
                np.memmap(path, dtype, "c", file.tell(), shape, order) if math.prod(shape) else np.zeros(shape, dtype)
            )
    return arrays
