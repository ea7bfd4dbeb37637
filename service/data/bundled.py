"""Loaders of the bundled datasets with rows: inputs, and a target for each row."""

from __future__ import annotations

from functools import partial
from typing import Final

from sklearn import datasets

DIGITS: Final = partial(datasets.load_digits, return_X_y=True)
BREAST_CANCER: Final = partial(datasets.load_breast_cancer, return_X_y=True)
WINE: Final = partial(datasets.load_wine, return_X_y=True)
DIABETES: Final = partial(datasets.load_diabetes, return_X_y=True)
