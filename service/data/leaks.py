"""Looks for what makes validation better than it should be: copies of rows, and features that hold the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from service.data.arrays import AnyArray
from service.data.prepared_files import Rows
from service.data.sources import RowSource, Table
from service.data.splits import RowSplit, copies, identical_rows, torn_apart
from service.spec.dataset_info import HELD_OUT

MAX_ROWS: Final = 10_000
"""Rows of a part that are looked at."""

MAX_COLUMNS: Final = 200
"""Columns of a table that are looked at."""

LEAVES: Final = 32
"""Leaves of the tree that predicts the target from one column."""

CALLED: Final = {"train": "training", "val": "validation", "test": "test"}

UNEVEN: Final = 0.03
"""How far the share of the rows that are held out may be off without a note."""

TELLTALE: Final = 0.02
"""Share of the trivial predictor's error that is left if one column holds the answer."""


def suspicions(source: RowSource, seed: int) -> Iterator[str]:
    """Say what may be wrong with the rows and columns of a job, one sentence each."""
    parts = source.split.parts(source.rows, seed, source.target.classes, source.target.labels)
    if source.split.values is not None:
        sizes = (f"{name} has {_size(source.split, parts[part])}" for part, name in CALLED.items())
        yield f"the rows are split by {source.split.by}: {', '.join(sizes)}"
    if source.split.together is not None:
        count, torn = copies(source.split.together), torn_apart(source.split.together, parts)
        but = f", but for {torn:,} that would make a part too large" if torn else ""
        told = f"{count:,} of {source.rows:,} rows have another row with the same features"
        yield f"{told}; such rows are kept in one part{but}"
        if source.split.by == "random" and _are_uneven(parts, source.rows):
            sizes = (f"{name} has {len(parts[part]):,} rows" for part, name in CALLED.items())
            yield f"rows with the same features make the parts uneven: {', '.join(sizes)}"
    if isinstance(source, Table):
        yield from _copies_of_training(source, parts)
        if source.target.values is not None:
            yield from _telltale_columns(source, parts)


def _are_uneven(parts: Mapping[str, Rows], rows: int) -> bool:
    return any(abs(len(parts[part]) / rows - HELD_OUT) > UNEVEN for part in ("val", "test"))


def _size(split: RowSplit, rows: Rows) -> str:
    assert split.values is not None, "only called for a split by a column"
    size, values = f"{len(rows):,} rows", split.values[rows]
    if split.by == "group":
        return f"{size} of {len(np.unique(values)):,} groups"
    return size


def _copies_of_training(table: Table, parts: Mapping[str, Rows]) -> Iterator[str]:
    """Count the rows of other parts that copy a training row, if the user has said which rows are in which part."""
    if table.split.by not in ("time", "column"):
        return
    numbers = identical_rows(table.column(column.name) for column in table.columns if column.width)
    if numbers is None:
        return
    held_out = np.concatenate([parts["val"], parts["test"]])
    count = int(np.isin(numbers[held_out], numbers[parts["train"]]).sum())
    if count:
        same = f"{count:,} of {len(held_out):,} rows for validation and test have the same features as a training row"
        yield f"{same}, so a model that remembers it looks better than it is"


def _telltale_columns(table: Table, parts: Mapping[str, Rows]) -> Iterator[str]:
    """Name the columns that predict the target nearly perfectly on their own."""
    assert table.target.values is not None, "autoencoding has no target"
    train, val = (np.random.default_rng(0).permutation(parts[part])[:MAX_ROWS] for part in ("train", "val"))
    classes = table.target.classes
    y = np.asarray(table.target.values, np.float64) if classes is None else classes

    def error(predicted: AnyArray, part: Rows) -> float:
        return float(np.square(predicted - y[part]).mean() if classes is None else (predicted != y[part]).mean())

    def error_of_constant(part: Rows) -> float:
        """Return the error of the constant that is best for the part, so that an outlier elsewhere changes nothing."""
        return float(y[part].var() if classes is None else 1 - np.bincount(classes[part]).max() / len(part))

    for column in [column for column in table.columns if column.width][:MAX_COLUMNS]:
        values = table.column(column.name)
        x = values if column.is_numeric else np.unique(values, return_inverse=True)[1]
        tree = (DecisionTreeRegressor if classes is None else DecisionTreeClassifier)(max_leaf_nodes=LEAVES)
        tree.fit(x[train, None], y[train])
        if all(error(tree.predict(x[part, None]), part) < TELLTALE * error_of_constant(part) for part in (train, val)):
            yield (
                f"column {column.name!r} alone tells the target nearly perfectly: exclude it (dataset.exclude) unless "
                "it is known when the model is used"
            )
