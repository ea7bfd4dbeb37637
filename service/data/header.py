"""Finds the header of a table: the rows above it, and whether there is one at all.

    age,city,joined            names
    34,Rome,2024-01-31

    5.1,3.5,setosa             data: numbers above numbers, and a value that its column has further down
    4.9,3.0,setosa

Each column has a say: its first cell is like the cells below it, as data would be, or is something else, as a name
would be. Where columns disagree, the row is taken for names, and a note says so.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from enum import Enum, auto
from itertools import pairwise
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from service.data.columns import look, read_as
from service.data.facts import ColumnKind, Reading
from service.data.forms import MARKS
from service.errors import shortened

SAMPLE_ROWS: Final = 200
"""Rows in which the reader looks for the header, and of a CSV file for separator and decimal mark."""

MOST_COLUMNS: Final = 100
"""Columns that are asked whether the first row has names."""

FEWEST_ROWS: Final = 3
"""Rows below the first one from which on they can tell whether it is one of them."""

NUMBER: Final = re.compile(r"[+-]?[\d.,]*\d")
"""A cell that is a number. A row with such a cell has no names below a title."""

YEARS: Final = range(1900, 2101)
"""Numbers that name columns where they are in order."""

SAME_SHAPE: Final = 0.9
"""Share of cells of one shape, such as AB-99, from which on a column is of codes."""

MOST_NAMED: Final = 5
"""Cells of the first row that a note quotes."""


class Header(NamedTuple):
    """Whether the first row has the names of the columns, and what a person should know about that."""

    exists: bool
    notes: tuple[str, ...] = ()


class _Says(Enum):
    """What a column says about its first cell."""

    DATA = auto()
    NAME = auto()
    NOTHING = auto()


class _Number(NamedTuple):
    """A number above numbers: data, or one of the numbers that name the columns."""

    value: float
    below_are_whole: bool


def find_header(rows: Sequence[Sequence[str]], reading: Reading) -> Header:
    """Return whether the first of some rows has names.

    Args:
        rows: The first rows of a table, from the possible header on.
        reading: How the file is read; its ``header`` decides if it is given.

    >>> find_header([["5.1", "setosa"], *[["4.9", "setosa"]] * 5], Reading()).exists
    False
    >>> find_header([["size", "kind"], *[["4.9", "setosa"]] * 5], Reading())
    Header(exists=True, notes=())
    """
    if reading.header is not None or len(rows) <= FEWEST_ROWS:
        return Header(reading.header != "none")
    first, below = [cell.strip() for cell in rows[0]], rows[1 : SAMPLE_ROWS + 1]
    rest = [row for row in below if row != rows[0]] or below  # without the header of another part of the file
    asked = [
        (cell, [row[index] if index < len(row) else "" for row in rest])
        for index, cell in enumerate(first[:MOST_COLUMNS])
    ]
    said = [_ask(cell, pa.array(cells, pa.string()), reading) for cell, cells in asked]
    numbers = [found for found in said if isinstance(found, _Number)]
    in_order = _are_in_order([number.value for number in numbers])
    data, names = said.count(_Says.DATA), said.count(_Says.NAME)
    names += not first[0] and all(asked[0][1])  # a column with row names has none
    if in_order:
        names += len(numbers)
    elif not _may_name(numbers):
        data += len(numbers)
        numbers = []
    filled = [cell for cell in first if cell]
    data += len(set(filled)) < len(filled)
    is_open = bool(numbers) and not in_order
    quoted = ", ".join(repr(shortened(cell)) for cell in first[:MOST_NAMED]) + ", ..." * (len(first) > MOST_NAMED)
    if data and not names and not is_open:
        last = column_name(len(first))
        called = f"the columns are called {column_name(1)} to {last}" if len(first) > 1 else f"it is called {last}"
        wrong = "if it has the names, upload the file again with header=first"
        return Header(False, (f"the first row looks like data ({quoted}), so {called}: {wrong}",))
    if names and not data and not is_open:
        return Header(True)
    wrong = "if it is data, upload the file again with header=none"
    return Header(True, (f"the first row is taken as names ({quoted}): {wrong}",))


def column_name(number: int) -> str:
    """Return what a column of a file without a header is called, counted from 1."""
    return f"column_{number}"


def _ask(cell: str, texts: pa.Array, reading: Reading) -> _Says | _Number:
    """Return what a column says about its first cell."""
    texts = pc.utf8_trim_whitespace(texts)
    cells = texts.filter(pc.invert(pc.is_in(pc.utf8_lower(texts), pa.array(["", *MARKS]))))
    if cell.lower() in ("", *MARKS) or not len(cells):
        return _Says.NOTHING
    found = look(cells, reading)
    if found.kind not in (ColumnKind.NUMBER, ColumnKind.DATE, ColumnKind.BOOLEAN):
        return _ask_texts(cell, cells.to_pylist())
    if found.kind is ColumnKind.BOOLEAN:  # a target of yes and no may be called y
        return _Says.DATA if cell in cells.to_pylist() else _Says.NAME
    value = read_as(found.kind, found.form, pa.array([cell]))[0].as_py()
    if value is not None and found.kind is ColumnKind.NUMBER:
        below = read_as(found.kind, found.form, cells).drop_null()
        return _Number(value, bool(pc.all(pc.equal(pc.floor(below), below)).as_py()))
    return _Says.NAME if value is None else _Says.DATA


def _ask_texts(cell: str, cells: Sequence[str]) -> _Says:
    counted, shapes = Counter(cells), Counter(map(_shape, cells))
    if 2 * len(counted) <= len(cells) and cell in counted:
        return _Says.DATA
    shape, count = shapes.most_common(1)[0]
    if "9" in shape and count >= SAME_SHAPE * len(cells):
        return _Says.DATA if _shape(cell) == shape else _Says.NAME
    is_short = 4 * len(cell) < statistics.median(map(len, cells))
    return _Says.NAME if is_short or 4 * len(counted) <= len(cells) else _Says.NOTHING


def _shape(text: str) -> str:
    """Return a text with one 9 for each run of digits, and one a for each run of letters."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text))


def _are_in_order(numbers: Sequence[float]) -> bool:
    """Return whether numbers are surely names: whole and evenly rising, as 0, 1, 2, 3 or 2019, 2020."""
    steps = {after - before for before, after in pairwise(numbers)}
    if len(steps) != 1 or min(steps) <= 0 or not all(float(number).is_integer() for number in numbers):
        return False
    return len(numbers) > FEWEST_ROWS or all(number in YEARS for number in numbers)


def _may_name(numbers: Sequence[_Number]) -> bool:
    """Return whether numbers may be names: rising ones, years, or whole ones above fractions."""
    values = [number.value for number in numbers]
    if not values:
        return False
    rising = all(before < after for before, after in pairwise(values))
    counts = len(values) > 1 and values in (list(range(len(values))), list(range(1, len(values) + 1)))
    whole = all(float(value).is_integer() for value in values)
    many, different = len(values) >= FEWEST_ROWS, len(set(values)) == len(values)
    above_fractions = many and different and not any(number.below_are_whole for number in numbers)
    return (rising and (len(values) > FEWEST_ROWS or counts)) or (
        whole and (above_fractions or (rising and all(value in YEARS for value in values)))
    )


def title_rows(rows: Sequence[Sequence[object]]) -> int:
    """Return how many rows with a title, or nothing, stand above the header of a table.

    A title fills at most half as many cells as most rows do; or it is a remark such as ``# units: m, s``, which has
    fewer or more cells than most rows, unlike a header that begins with #. What comes below it must look like a header:
    a name above each column but one, and none of them a number.

    >>> title_rows([["Sales of 2024", ""], ["", ""], ["city", "sales"], ["Rome", "1"], ["Oslo", "2"]])
    2
    """
    texts = [[str(cell).strip() for cell in row] for row in rows[:SAMPLE_ROWS]]
    if not texts:
        return 0
    filled = [[text for text in row if text] for row in texts]
    usual = statistics.median(map(len, filled))
    wide = {statistics.median(map(len, texts)), statistics.median(map(_width, texts))}
    titles = next(
        (
            index
            for index, cells in enumerate(filled)
            if len(cells) > usual / 2 and not (cells[0].startswith("#") and _width(texts[index]) not in wide)
        ),
        0,
    )
    header = filled[titles] if titles else []
    return titles if len(header) >= usual - 1 and not any(NUMBER.fullmatch(name) for name in header) else 0


def _width(row: Sequence[str]) -> int:
    """Return the number of cells up to the last that is filled."""
    return max((number for number, text in enumerate(row, 1) if text), default=0)


def above_header(count: int) -> tuple[str, ...]:
    """Return what a person should know about the lines above a header."""
    lines = "line above the header is" if count == 1 else "lines above the header are"
    return (f"{count} {lines} left out, as a title",)
