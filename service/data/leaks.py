"""Looks for what makes validation better than it should be: copies of rows, and features that hold the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from service.data.arrays import AnyArray
from service.data.facts import Column
from service.data.prepared_files import Rows
from service.data.sources import RowSource, Table
from service.data.splits import Parts, RowSplit, copies, identical_rows, torn_apart
from service.spec.dataset_info import HELD_OUT

MAX_ROWS: Final = 10_000
"""Rows of a part that are looked at."""

MAX_COLUMNS: Final = 200
"""Columns of a table that are looked at."""

LEAVES: Final = 32
"""Fewest leaves of the tree that predicts the target from one column."""

CALLED: Final = {"train": "training", "val": "validation", "test": "test"}

UNEVEN: Final = 0.03
"""How far the share of the rows that are held out may be off without a note."""

TELLTALE: Final = 0.02
"""Share of the trivial predictor's error that is left if one column holds the answer."""

MOST_UNTOLD: Final = 0.1
"""Largest share of rows of which a column that holds the answer says nothing: its cell is empty, or its code is new."""

SAME_RANKS: Final = 0.999
"""Rank correlation above which a number is the target in another unit, and ``MIN_RANKED`` training rows to see it."""

MIN_RANKED: Final = 20

GROUPED: Final = (
    ". If rows with the same value belong together, as those of one patient, split by group (dataset.split)"
)
"""What else to do about a column of which each value has one target."""


FEW_ROWS: Final = 20
"""Rows of validation or test below which luck decides much of the answer."""


def notes_about_rows(source: RowSource, seed: int) -> Iterator[str]:
    """Say how the rows of a job are split, and what may be wrong with them, one sentence each."""
    parts = _parts(source, seed)
    yield from _about_split(source, parts)
    yield from _suspicions(source, parts)


def suspicions(source: RowSource, seed: int) -> Iterator[str]:
    """Say what may be wrong with the rows and columns of a job, one sentence each."""
    return _suspicions(source, _parts(source, seed))


def _parts(source: RowSource, seed: int) -> Parts:
    return source.split.parts(source.rows, seed, source.target.classes, source.target.labels)


def _about_split(source: RowSource, parts: Parts) -> Iterator[str]:
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


def _suspicions(source: RowSource, parts: Parts) -> Iterator[str]:
    if min(len(parts["val"]), len(parts["test"])) < FEW_ROWS:
        few = f"validation has {len(parts['val'])} rows and test has {len(parts['test'])}"
        yield f"{few}: with so few, luck decides much of the answer, and more rows would tell more"
    if isinstance(source, Table):
        yield from _copies_of_training(source, parts)
        if source.target.values is not None:
            yield from _telltale_columns(source, parts)


def _are_uneven(parts: Parts, rows: int) -> bool:
    return any(abs(len(parts[part]) / rows - HELD_OUT) > UNEVEN for part in ("val", "test"))


def _size(split: RowSplit, rows: Rows) -> str:
    assert split.values is not None, "only called for a split by a column"
    size, values = f"{len(rows):,} rows", split.values[rows]
    if split.by == "group":
        return f"{size} of {len(np.unique(values)):,} groups"
    return size


def _copies_of_training(table: Table, parts: Parts) -> Iterator[str]:
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


def _telltale_columns(table: Table, parts: Parts) -> Iterator[str]:
    """Name the columns that predict the target nearly perfectly on their own."""
    target = table.target
    assert target.values is not None, "autoencoding has no target"
    train, val = (np.random.default_rng(0).permutation(parts[part])[:MAX_ROWS] for part in ("train", "val"))
    classes = len(target.labels) if target.classes is not None else None
    y = target.values if classes else np.asarray(target.values, np.float64)
    for column in [column for column in table.columns if column.width][:MAX_COLUMNS]:
        values = table.column(column.name)
        x = values if column.is_numeric else np.unique(values, return_inverse=True)[1].astype(np.float64)
        is_empty = np.isnan(values) if column.is_numeric else values == ""
        told = _told(x[train], y[train], x[val], y[val], classes, column)
        if not told and column.missing and all(_are_most((~is_empty[rows]).sum(), len(rows)) for rows in (train, val)):
            some, some_val = (rows[~is_empty[rows]] for rows in (train, val))
            told = _told(x[some], y[some], x[some_val], y[some_val], classes, column)
        if told:
            what = "alone tells the target nearly perfectly"
            remedy = "say ignore in dataset.columns unless it is known when the model is used"
            yield f"column {column.name!r} {what}: {remedy}{GROUPED if told == 'by value' else ''}"


def _are_most(some: int, rows: int) -> bool:
    """Return whether rows that a column says something about are nearly all rows."""
    return some >= rows * (1 - MOST_UNTOLD)


def _told(
    x: AnyArray, y: AnyArray, x_val: AnyArray, y_val: AnyArray, classes: int | None, column: Column
) -> Literal["", "by size", "by value"]:
    """Return how one column predicts the target nearly perfectly, of training and of validation rows; "" if it cannot.

    Args:
        x: The column in training rows: numbers, NaN where one is missing, or a number for each text.
        y: Class index or number of each training row.
        x_val: The column in validation rows.
        y_val: Class index or number of each validation row.
        classes: Number of classes; None for a regression.
        column: What it holds.
    """
    leaves = max(LEAVES, 2 * (classes or 0))  # two ends for each class that is a range of the column
    tree = (DecisionTreeClassifier if classes else DecisionTreeRegressor)(max_leaf_nodes=leaves)
    tree.fit(x[:, None], y)
    if all(_is_nearly_perfect(tree.predict(a[:, None]), b, classes) for a, b in ((x, y), (x_val, y_val))):
        return "by size"
    if not classes and len(y) >= MIN_RANKED and all(_rank_alike(a, b) for a, b in ((x, y), (x_val, y_val))):
        return "by size"
    if not column.is_numeric or column.whole:
        found, found_val = _of_same_value(x, y, x_val, classes)
        if all(_is_nearly_perfect(a, b, classes) for a, b in ((found, y), (found_val, y_val))):
            return "by value"
    return ""


def _is_nearly_perfect(predicted: AnyArray, y: AnyArray, classes: int | None) -> bool:
    """Return whether predictions, NaN for a few rows without one, are much better than the best constant.

    It is the best one for these rows, so that an outlier elsewhere changes nothing.
    """
    told = ~np.isnan(predicted)
    if not len(y) or not _are_most(told.sum(), len(y)):
        return False
    predicted, y = predicted[told], y[told]
    if classes:
        return bool((predicted != y).mean() < TELLTALE * (1 - np.bincount(y).max() / len(y)))
    return bool(np.square(predicted - y).mean() < TELLTALE * y.var())


def _of_same_value(
    x: AnyArray, y: AnyArray, x_val: AnyArray, classes: int | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Predict by the training rows with the same value: their most frequent class, or their mean.

    A training row is predicted by the others. NaN stands for rows whose value no other training row has.
    """
    codes = np.unique(np.concatenate([x, x_val]), return_inverse=True)[1]
    code, code_val = codes[: len(x)], codes[len(x) :]
    targets = np.eye(classes)[y] if classes else y[:, None]
    count, total = np.zeros(codes.max() + 1), np.zeros((codes.max() + 1, targets.shape[1]))
    np.add.at(count, code, 1)
    np.add.at(total, code, targets)

    def predicted(count: AnyArray, total: AnyArray) -> npt.NDArray[np.float64]:
        best = total.argmax(1) if classes else total[:, 0] / np.maximum(count, 1)
        return np.where(count > 0, best, np.nan)

    return predicted(count[code] - 1, total[code] - targets), predicted(count[code_val], total[code_val])


def _rank_alike(x: AnyArray, y: AnyArray) -> bool:
    """Return whether one number rises with another, or falls, nearly without exception.

    A target in another unit does, also one whose few largest values hold most of the squares. Rows with the most
    frequent target are looked at with the others and left out: many zeros would hide how the others are ordered.
    """
    values, counts = np.unique(y, return_counts=True)
    others = y != values[counts.argmax()]
    return all(
        len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0 and abs(spearmanr(a, b).statistic) > SAME_RANKS
        for a, b in ((x, y), (x[others], y[others]))
    )
