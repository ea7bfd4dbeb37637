# The data of a job: loaded, split into train / validation / test once from the job's seed, scaled by what the training
# part shows, and stored as plain arrays that the slot processes map into memory. Knows nothing of models or trials;
# uploaded data is prepared in preparation.py.
"""Loading, splitting and scaling of datasets."""

from __future__ import annotations

import hashlib
import math
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from service.artifacts import local_path, read_file
from service.data.catalog import BUNDLED, HELD_OUT, Task
from service.data.physics import collocation
from service.registry import import_object

ALIGNMENT: Final = 64
"""Bytes that the arrays of a split are aligned to."""

PADDING_ID: Final = 0xD935
"""Kind of the field of a zip entry that holds nothing but padding; the one that Android's zipalign uses."""

PARTS: Final = ("train", "val", "test")

Array = npt.NDArray[np.float32] | npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The three parts of a dataset; ``x_*`` are rows x features, ``y_*`` class indices or standardised targets."""

    x_train: Array
    y_train: Array
    x_val: Array
    y_val: Array
    x_test: Array
    y_test: Array

    def arrays(self) -> dict[str, Array]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def save_split(arrays: Mapping[str, Array], folder: Path) -> None:
    """Write arrays of a split as .npy files; equal arrays give equal bytes."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def pack_split(folder: Path, target: Path) -> None:
    """Put the .npy files of a split into one uncompressed NPZ file, piece by piece; equal arrays give equal bytes.

    What is in it can be memory-mapped: nothing is compressed, and every array begins at a multiple of 64 bytes.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for field in fields(Split):
            entry = zipfile.ZipInfo(f"{field.name}.npy")  # of 1980: no clock gets into the file
            header = 30 + len(entry.filename) + 20 + 4  # with what zipfile adds for a file that may be over 4 GiB
            padding = -(archive.start_dir + header) % ALIGNMENT
            entry.extra = struct.pack("<HH", PADDING_ID, padding) + bytes(padding)
            with (folder / entry.filename).open("rb") as source, archive.open(entry, "w", force_zip64=True) as packed:
                shutil.copyfileobj(source, packed, 1 << 20)


def _map_split(path: Path) -> Split:
    """Map the arrays of an NPZ file that :func:`pack_split` wrote into memory."""
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for field in fields(Split):
            entry = archive.getinfo(f"{field.name}.npy")
            file.seek(entry.header_offset + 26)
            name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
            file.seek(name_bytes + extra_bytes, 1)
            np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            order: Literal["F", "C"] = "F" if fortran else "C"
            # "c": what is mapped can be written to, which torch asks for, and nothing that is written reaches the file
            arrays[field.name] = (
                np.memmap(path, dtype, "c", file.tell(), shape, order) if math.prod(shape) else np.zeros(shape, dtype)
            )
    return Split(**arrays)


def split_rows(rows: int, seed: int, classes: npt.NDArray[Any] | None) -> dict[str, npt.NDArray[np.int64]]:
    """Return which rows go into which part: 60 / 20 / 20, stratified where ``classes`` are given."""
    rest, test = train_test_split(np.arange(rows), test_size=HELD_OUT, random_state=seed, stratify=classes)
    train, val = train_test_split(
        rest,
        test_size=HELD_OUT / (1 - HELD_OUT),
        random_state=seed,
        stratify=None if classes is None else classes[rest],
    )
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


def prepare(name: str, seed: int) -> Split:
    """Load a bundled dataset, split it 60 / 20 / 20 (stratified by class) and standardise it on the training part.

    Pixels share one scale, so that a pixel that is nearly always dark is not blown up; other columns are scaled one by
    one. The target of a regression is standardised too: its losses are in units of the target's variance. Of a
    differential equation, every part has points of its own, in the units of the equation.
    """
    info, load_rows = BUNDLED[name].info, BUNDLED[name].load
    if load_rows is None:
        return Split(**collocation(name, seed))
    x, y = import_object(load_rows)()
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    classes = info.task is Task.CLASSIFICATION
    x_rest, x_test, y_rest, y_test = train_test_split(
        x, y, test_size=HELD_OUT, random_state=seed, stratify=y if classes else None
    )
    x_train, x_val, y_train, y_val = train_test_split(
        x_rest, y_rest, test_size=HELD_OUT / (1 - HELD_OUT), random_state=seed, stratify=y_rest if classes else None
    )
    scaler = StandardScaler().fit(x_train)
    if info.images:
        scaler.scale_ = np.full_like(scaler.scale_, np.sqrt(scaler.var_.mean()))
    xs = [scaler.transform(part).astype(np.float32) for part in (x_train, x_val, x_test)]
    ys: list[Array]
    if classes:
        ys = [part.astype(np.int64) for part in (y_train, y_val, y_test)]
    else:
        target = StandardScaler().fit(y_train[:, None])
        ys = [target.transform(part[:, None]).astype(np.float32) for part in (y_train, y_val, y_test)]
    return Split(x_train=xs[0], y_train=ys[0], x_val=xs[1], y_val=ys[1], x_test=xs[2], y_test=ys[2])


@lru_cache(maxsize=2)
def load(url: str, sha256: str) -> Split:
    """Map a prepared split of the artifact store into memory; the last ones stay mapped.

    Of a store that is no local folder a copy is mapped, whose space on the disk is free when nothing maps it any more.

    Raises:
        ValueError: The file is not the one that was prepared for the job.
    """
    path, is_local = local_path(url)
    if is_local:
        return _map_checked(path, sha256)
    with tempfile.TemporaryDirectory(prefix="warptune-data-") as folder:  # what is mapped outlives its name
        copy = Path(folder) / "data.npz"
        read_file(url, copy)
        return _map_checked(copy, sha256)


def _map_checked(path: Path, sha256: str) -> Split:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(f"the prepared data has changed: its SHA-256 is {digest}, expected {sha256}")
    return _map_split(path)
