# The data of a job: loaded, split into train / validation / test once from the job's seed, scaled by what the training
# part shows, and stored as plain arrays that the slot processes read. Knows nothing of models or trials.
"""Loading, splitting and scaling of datasets."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from sklearn import datasets as sklearn_datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from service.artifacts import read_artifact
from service.training.catalog import DATASETS, HELD_OUT, Task

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

    def to_npz(self) -> bytes:
        """Return the arrays as an uncompressed NPZ file; equal arrays give equal bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return buffer.getvalue()

    @classmethod
    def from_npz(cls, content: bytes) -> Split:
        """Read what :meth:`to_npz` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def prepare(name: str, seed: int) -> Split:
    """Load a bundled dataset, split it 60 / 20 / 20 (stratified by class) and standardise it on the training part.

    Pixels share one scale, so that a pixel that is nearly always dark is not blown up; other columns are scaled one by
    one. The target of a regression is standardised too: its losses are in units of the target's variance.
    """
    info = DATASETS[name]
    bunch = getattr(sklearn_datasets, f"load_{name}")()
    x, y = np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target)
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
    """Read a prepared split from the artifact store; the last ones are kept in memory.

    Raises:
        ValueError: The file is not the one that was prepared for the job.
    """
    return Split.from_npz(read_prepared(url, sha256))


def read_prepared(url: str, sha256: str) -> bytes:
    """Read the prepared data of a job.

    Raises:
        ValueError: The file is not the one that was prepared for the job.
    """
    content = read_artifact(url)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(f"the prepared data has changed: its SHA-256 is {digest}, expected {sha256}")
    return content
