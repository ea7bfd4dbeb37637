# The rows of a dataset as a family looks at them: values to group by, classes, and features that are learned from the
# rows that are trained on. Which rows those are is decided in families.py. All of a table is in memory.
"""Tables that families are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet
from sklearn.preprocessing import StandardScaler

from service.data.catalog import BUNDLED, DatasetInfo, Task
from service.data.facts import FACTS_FILE, DatasetFacts, Layout, dataset_info
from service.data.preparation import column_transformer, column_values
from service.data.split import Array
from service.registry import import_object
from service.spec.data import DatasetSpec

Rows = npt.NDArray[np.int64]

Features = Callable[[Rows, str | None], Array]
"""From the rows to learn from, and a column to leave out, to the features of all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of a dataset before anything is learned from them.

    Attributes:
        y: Class indices of a classification, numbers of a regression, zeros where there is no target.
        labels: Names of the classes, by index.
        columns: The values of each column that rows can be grouped by: numbers, NaN where missing, or texts, "" there.
        features: Makes features of the columns.
        task: What the target asks for.
    """

    y: npt.NDArray[Any]
    labels: tuple[str, ...]
    columns: Mapping[str, npt.NDArray[Any]]
    features: Features
    task: Task

    def targets(self, rows: Rows) -> Array:
        """Return the targets of all rows; numbers are standardised by what ``rows`` have."""
        if self.task is Task.CLASSIFICATION:
            return self.y.astype(np.int64)
        column = np.asarray(self.y, dtype=np.float64)[:, None]
        scaled: Array = StandardScaler().fit(column[rows]).transform(column).astype(np.float32)
        return scaled


def bundled_table(name: str) -> Table:
    """Return the rows of a bundled dataset."""
    info, load_rows = BUNDLED[name].info, BUNDLED[name].load
    assert load_rows is not None, "a family of an equation is refused"
    x, y = import_object(load_rows)()
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    labels = tuple(map(str, np.unique(y))) if info.task is Task.CLASSIFICATION else ()
    columns = {column: x[:, index] for index, column in enumerate(info.columns)}
    return Table(y=y, labels=labels, columns=columns, features=_scaled(x, info.columns, info.images), task=info.task)


def uploaded_table(folder: Path, chosen: DatasetSpec) -> Table:
    """Return the rows of an uploaded dataset.

    Args:
        folder: Its files.
        chosen: Its target and task, and the columns that are no features.

    Raises:
        InvalidSpecError: It has no such target.
    """
    facts = DatasetFacts.from_json(json.loads((folder / FACTS_FILE).read_text(encoding="utf-8")))
    info = dataset_info(facts, chosen)
    if facts.layout is Layout.TABLE:
        return _uploaded_columns(folder, facts, info, chosen.target)
    x = np.load(folder / "x.npy", allow_pickle=False)
    y = None if info.task is Task.AUTOENCODING else np.load(folder / "y.npy", allow_pickle=False)
    y, labels = _target(y, info.task, len(x))
    return Table(y=y, labels=labels, columns={}, features=_scaled(x, (), info.images), task=info.task)


def _uploaded_columns(folder: Path, facts: DatasetFacts, info: DatasetInfo, target: str | None) -> Table:
    table = pyarrow.parquet.read_table(folder / "table.parquet")
    described = [column for column in facts.columns if column.name in info.columns]
    values = {column.name: column_values(table.column(column.name), column) for column in described}

    def features(rows: Rows, without: str | None) -> Array:
        used = [column for column in described if column.width and column.name != without]
        x = np.empty((table.num_rows, len(used)), dtype=object)
        for index, column in enumerate(used):
            x[:, index] = values[column.name]
        return np.ascontiguousarray(column_transformer(used).fit(x[rows]).transform(x), dtype=np.float32)

    found = None if info.task is Task.AUTOENCODING else facts.target(target)
    y, labels = _target(None if found is None else table.column(found.name).to_numpy(), info.task, table.num_rows)
    return Table(y=y, labels=labels, columns=values, features=features, task=info.task)


def _target(y: npt.NDArray[Any] | None, task: Task, rows: int) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    if y is None:
        return np.zeros(rows), ()
    if task is not Task.CLASSIFICATION:
        return y, ()
    labels, indices = np.unique(y, return_inverse=True)
    return indices, tuple(map(str, labels))


def _scaled(x: npt.NDArray[Any], columns: Sequence[str], images: bool) -> Features:
    """Return what standardises numbers; pixels share one scale."""

    def features(rows: Rows, without: str | None) -> Array:
        kept = x if without is None else np.delete(x, columns.index(without), axis=1)
        scaler = StandardScaler().fit(np.asarray(kept[rows], dtype=np.float64))
        if images:
            scaler.scale_ = np.full_like(scaler.scale_, np.sqrt(max(scaler.var_.mean(), 1e-12)))
        scaled: Array = scaler.transform(np.asarray(kept, dtype=np.float64)).astype(np.float32)
        return scaled

    return features
