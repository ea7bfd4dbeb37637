"""How rows become features, as plain data: what was learned from training rows, and the functions that apply it.

Training, the command ``predict`` and exported scripts all call these functions, so a row has the same features in each.
A script contains their source. They need numpy and pyarrow, and scikit-learn only where texts are hashed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NotRequired, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict

from service.data.columns import date_part, read_as
from service.data.facts import TEXT_FEATURES, ColumnKind, Form
from service.data.forms import CLOCK, PLAIN, Numbers, numbers_among, read_texts, without
from service.data.spellings import read_booleans
from service.errors import shortened

VALUE: Final = "value"
"""The one part of a column of numbers or booleans; a date has those of ``DATE_PARTS``."""


class FittedPart(TypedDict):
    """How a number becomes a feature: a missing one is the median, then (number - mean) / scale."""

    part: str
    median: float
    mean: float
    scale: float


class FittedColumn(TypedDict):
    """How a column becomes features.

    Attributes:
        kind: A ``ColumnKind``.
        form: How its numbers or dates are written.
        was_numeric: Whether the cells of the training file were kept as numbers, so that 1.0 and 1 are one category.
        parts: Of numbers, booleans and dates: one feature each.
        marks_missing: Whether there is a feature that is 1 where a number is missing.
        levels: Categories, one feature each; None hashes the texts into ``TEXT_FEATURES`` features.
    """

    name: str
    kind: str
    form: dict[str, Any]
    was_numeric: bool
    parts: list[FittedPart]
    marks_missing: bool
    levels: list[str] | None


@final
class FittedTable(TypedDict):
    """How the rows of a table become features, and how its CSV file was written.

    Attributes:
        missing: Cells that have no value, besides empty ones.
        names: What the columns of a file without a header are called, all of them in their order; absent for others.
    """

    columns: list[FittedColumn]
    encoding: str
    delimiter: str
    missing: list[str]
    names: NotRequired[list[str]]


@final
class FittedArrays(TypedDict):
    """How rows of numbers become features: (number - mean) / scale, column by column.

    Attributes:
        names: Names of the columns; none for an uploaded array.
    """

    names: list[str]
    mean: list[float]
    scale: list[float]


class FittedTarget(TypedDict):
    """What the targets of a model stand for.

    Attributes:
        name: Column of the target, if it has a name.
        classes: Names of the classes, by index.
        transform: Of numbers: name of the transform -> what it was fitted to. ``standardise`` has mean and scale.
    """

    name: str | None
    classes: list[str]
    transform: dict[str, list[float]]


class Preprocessing(TypedDict):
    """What lies between a row of the user's data and the model, and between its output and a prediction."""

    features: FittedTable | FittedArrays
    target: FittedTarget


def table_features(columns: Sequence[FittedColumn], values: Mapping[str, pa.Array]) -> Numbers:
    """Return the features of rows: all numbers, then what marks missing numbers, then categories and texts.

    Args:
        columns: What was learned of each column.
        values: What ``read_as`` made of the cells of each: numbers or texts, null where one is missing.
    """
    numbers, missing, words = [], [], []
    for column in columns:
        cells = values[column["name"]]
        for fitted in column["parts"]:
            number = part_of(cells, fitted["part"])
            filled = np.where(np.isnan(number), fitted["median"], number)
            numbers.append(((filled - fitted["mean"]) / fitted["scale"])[:, None])
        if column["parts"] and column["marks_missing"]:
            missing.append(cells.is_null().to_numpy(zero_copy_only=False)[:, None])
        if not column["parts"]:
            levels = column["levels"]
            words.append(_hashed(cells, column["kind"]) if levels is None else _codes(cells, levels))
    return np.hstack([*numbers, *missing, *words], dtype=np.float64)


def part_of(cells: pa.Array, part: str) -> Numbers:
    """Return numbers, or a part of dates; NaN where one is missing."""
    numbers: Numbers = cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers if part == VALUE else date_part(part, numbers)


def _codes(cells: pa.Array, levels: Sequence[str]) -> Numbers:
    index = pc.index_in(cells, pa.array(levels, pa.string())).fill_null(-1).to_numpy(zero_copy_only=False)
    codes: Numbers = (index[:, None] == np.arange(len(levels))).astype(np.float64)
    return codes


def _hashed(cells: pa.Array, kind: str) -> Numbers:
    from sklearn.feature_extraction.text import HashingVectorizer

    pattern = r"(?s).+" if kind == ColumnKind.CATEGORY else r"(?u)\b\w\w+\b"  # a whole value, or words
    words = HashingVectorizer(n_features=TEXT_FEATURES, alternate_sign=True, token_pattern=pattern)
    hashed: Numbers = words.transform(cells.fill_null("").to_pylist()).toarray()
    return hashed


def array_features(fitted: FittedArrays, x: npt.ArrayLike) -> Numbers:
    """Return the features of rows of numbers, rows x columns."""
    features: Numbers = (np.asarray(x, dtype=np.float64) - np.array(fitted["mean"])) / np.array(fitted["scale"])
    return features


def new_values(fitted: FittedTable, cells: Mapping[str, pa.Array]) -> tuple[dict[str, pa.Array], list[str]]:
    """Return the values of new rows, and what a person should know about them.

    Args:
        fitted: What was learned of the table.
        cells: Of each column of the new file: texts, null where one is missing, or numbers.

    Raises:
        ValueError: A column is missing.
    """
    check_columns(cells, [column["name"] for column in fitted["columns"]])
    values, notes = dict[str, pa.Array](), list[str]()
    for column in fitted["columns"]:
        name, given = column["name"], cells[column["name"]]
        if column["was_numeric"]:
            given = without(given, numbers_among(fitted["missing"]), PLAIN)
        else:
            form = Form(**column["form"])
            given = without(given, form.missing, form)
        values[name] = value_of_new(column, given)
        unread = pc.and_(pc.is_valid(given), pc.is_null(values[name]))
        notes += note_about(name, given, unread, f"not {column['kind']}s, so they count as missing")
        if column["levels"] is not None:
            unseen = pc.and_(pc.is_valid(values[name]), pc.invert(pc.is_in(values[name], pa.array(column["levels"]))))
            notes += note_about(name, given, unseen, "values that training did not have, so they count as missing")
        if column["parts"] and not column["marks_missing"]:
            gaps = pc.and_(pc.is_null(given), pc.is_null(values[name]))
            notes += note_about(name, given, gaps, "empty, which none was in training: the median is used")
    return values, notes


def names_of_new(fitted: FittedTable, first: Sequence[str]) -> Sequence[str] | None:
    """Return what the columns of a file of new rows are called if it has no header; None if its first row has names.

    It may have no header only if the training file had none.

    Raises:
        ValueError: The file has no header either, and more or fewer columns.
    """
    names = fitted.get("names")
    if names is None or {column["name"] for column in fitted["columns"]} <= set(first):
        return None
    if len(first) != len(names):
        same = f"give all {len(names)} columns in the order of the training file, which had no header either"
        raise ValueError(f"the file has {len(first)} columns and no header; {same}")
    return names


def check_columns(cells: Mapping[str, pa.Array], needed: Sequence[str]) -> None:
    """Refuse a file that lacks a column.

    Raises:
        ValueError: Names what is missing.
    """
    absent = ", ".join(repr(name) for name in needed if name not in cells)
    if absent:
        raise ValueError(f"the file has no column {absent}; its columns are {shortened(', '.join(map(repr, cells)))}")


def value_of_new(column: FittedColumn, cells: pa.Array) -> pa.Array:
    """Return what training would have made of the cells of a column."""
    kind, form = ColumnKind(column["kind"]), Form(**column["form"])
    is_text = pa.types.is_string(cells.type)
    if not column["was_numeric"]:
        return read_as(kind, form if is_text else None, cells)
    numbers = read_texts(cells, form) if is_text else cells
    if is_text and form.date == CLOCK:
        numbers = pc.coalesce(numbers, read_texts(cells, PLAIN))  # a time that is given in seconds
    if kind is not ColumnKind.BOOLEAN:
        return read_as(kind, None, numbers)
    is_known = pc.is_in(numbers, pa.array([0, 1], numbers.type))
    numbers = pc.if_else(is_known, numbers, pa.scalar(None, numbers.type)).cast(pa.int64())
    return pc.coalesce(numbers, read_booleans(cells)) if is_text else numbers


def note_about(name: str, cells: pa.Array, which: pa.Array, what: str) -> list[str]:
    """Return a note that counts cells of a column and names the first; nothing if there is none."""
    count = pc.sum(which.cast(pa.int64())).as_py()
    if not count:
        return []
    row = pc.index(which, True).as_py()
    first = f"the first is {shortened(str(cells[row].as_py()))!r} in row {row + 1}"
    return [f"column {name!r}: {count:,} of {len(cells):,} cells are {what}; {first}"]
