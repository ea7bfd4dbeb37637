"""Refuses data with a few numbers so far from all others that no split can be trained on, such as -3.4e38 for no value.

A split that trains on such a number learns a scale at which all others are equal. One that does not has features or
targets whose squares are infinite, so that every run on it diverges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from service.data.arrays import PIECE_BYTES, AnyArray, find_outliers
from service.data.facts import LARGEST, ColumnKind
from service.data.sources import RowSource, Table
from service.errors import JobFailedError
from service.spec.tasks import Task

FARTHEST: Final = math.sqrt(LARGEST)
"""Standard deviations whose square is the largest float of 32 bits."""

HARMLESS: Final = 1e9
"""Numbers in arrays up to which a column is not looked at: next to them, others would have to be below 1e-10."""


def refuse_extremes(source: RowSource, target_transform: str) -> None:
    """Refuse a source whose numbers cannot be standardised, whatever the split.

    Raises:
        JobFailedError: A few numbers are too far from all others; it names the column, the value and the row.

    Cost: reads the numbers once, of arrays piece by piece, and sorts those of each column of a table.
    """
    remedy = "remove the row or the column"
    if isinstance(source, Table):
        remedy = f"if it stands for a missing value, name it in na_values at the upload; else {remedy}"
    for name, values in _features(source):
        _refuse(name, values, remedy)
    target = source.target
    if target.values is not None and target.task == Task.REGRESSION and target_transform == "standardise":
        remedy = "remove the row, or set dataset.target_transform to quantile"
        _refuse(f"the target {target.name or 'y'!r}", np.asarray(target.values, np.float64), remedy)


def _features(source: RowSource) -> Iterator[tuple[str, AnyArray]]:
    """Yield the columns that may have such numbers, and what they are called."""
    if isinstance(source, Table):
        for column in source.columns:
            if column.width and column.kind is ColumnKind.NUMBER:
                yield f"column {column.name!r}", source.column(column.name)
    elif source.x.dtype.kind == "f":
        step = max(1, PIECE_BYTES // source.x[:1].nbytes)
        pieces = (source.x[start : start + step] for start in range(0, len(source.x), step))
        largest = np.max([np.abs(piece).max(0) for piece in pieces], axis=0)
        for index in np.flatnonzero(largest > HARMLESS).tolist():
            name = repr(source.names[index]) if source.names else f"{index + 1} of x"
            yield f"column {name}", np.asarray(source.x[:, index], np.float64)


def _refuse(name: str, values: AnyArray, remedy: str) -> None:
    known = values[~np.isnan(values)]
    outliers = find_outliers(known)
    if outliers is None:
        return
    nearest_first = np.argsort(np.abs(known - np.median(known)))
    others = known[nearest_first[: -outliers.rows]]
    spread = float(others.std())
    if abs(outliers.value - others.mean()) > FARTHEST * (spread or 1.0):
        row = int(np.flatnonzero(values == outliers.value)[0]) + 1
        raise JobFailedError(
            f"{name} has {outliers.value:g} in row {row}, not counting a header, too far from the other values, whose "
            f"standard deviation is {spread:g}, to train on; {remedy}"
        )
