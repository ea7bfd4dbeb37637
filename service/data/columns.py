"""What the columns of a table hold: numbers, categories, booleans, dates or texts, and which are no features.

    "1.5"  "2.5"  "n/k"  "3.5" ...    numbers with an odd cell, which counts as missing and is named
    "01027"  "02134"  "10001"         categories: a number would lose the zero
    "Yes"  "no"  "no"                 booleans
    "0000-QX"  "0001-QX" ...          an id, which is left out

A dataset keeps its columns as they were read: numbers, booleans or texts. ``describe`` finds out what they hold, and
``values_of`` makes numbers or texts of them. Both depend on nothing but the column and what a job wants to take it for,
so that a worker reads a table as the API did.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from service.data.arrays import find_outliers
from service.data.facts import EXACT, MAX_LEVELS, TIMES, Column, ColumnKind, DatasetFacts, Form, Reading, Unused
from service.data.forms import (
    CLOCK,
    LAST_SHORT_YEAR,
    MARKS,
    ODD_SHARE,
    SAMPLE,
    SECONDS_PER_DAY,
    Numbers,
    Texts,
    date_form,
    number_form,
    numbers_among,
    read_texts,
    units_of,
    whole_if_all_are,
    without,
)
from service.data.spellings import (
    MOST_SPELLINGS,
    are_booleans,
    boolean_notes,
    category_notes,
    mark_notes,
    merged,
    name_booleans,
    read_booleans,
)
from service.errors import FieldError, InvalidSpecError, shortened

TABLE_FILE: Final = "table.parquet"
"""File of a dataset folder that the table is kept in."""

WANTED_ODD_SHARE: Final = 0.5
"""Largest share of odd cells in a column that a job takes for numbers or dates."""

PADDED_SHARE: Final = 0.01
"""Share of digits with leading zeros from which on a column holds codes; fewer are slips."""

ID_SHARE: Final = 0.99
"""Share of rows with a value of their own from which on a column is an id."""

CHOICES: Final = {"day_first_date": ColumnKind.DATE, "merged_category": ColumnKind.CATEGORY}
"""What a job may take a column for besides its kind -> the kind."""

MOST_UNITS: Final = 5
"""Different units up to which a column seems to hold numbers."""

FEW_WORDS: Final = 20
"""Different values up to which numbers with different units are taken for the names of sizes, as 500 ml and 1 l are."""

NO_UNITS: Final = re.compile(r"st|nd|rd|th|er|re|e|[eè]me|[ºª]|[QHW]\d", re.IGNORECASE)
"""What may stand after a number without being a unit, as in 1st and 2023H1."""

TWO_NUMBERS: Final = r"\d+(?:[.,]\d+)? ?(?:[/x\x{d7}*']|h|m|ft) ?\d+(?:[.,]\d+)? ?(?:min|s|cm|mm|m|in|\"|'')?"
"""Cells such as 120/80, 1920x1080, 1h 20min and 5'11"."""

WITH_REMARK: Final = r"[+-]?\d+(?:[.,]\d+)?(?:[ \x{a0}]?[*&(\[<>~!?^]\D{0,10})?"
"""Cells such as 0.12** and 5 (est.), and plain numbers among them."""

GAPS: Final = (99, 999, 9999, 99999, 999999)
"""Numbers that stand for a missing value in many tables, with either sign, where they are far from all others."""

DAYS_OF_EXCEL: Final = (29_221, 73_050)
"""January 1 of 1980 and of 2100, as Excel counts days."""

DAY_NAMES: Final = re.compile(r"date|datum|tag\b|day\b|fecha|jour", re.IGNORECASE)
"""Names of columns of days."""

OLDEST_DAY: Final = 19000101
NEWEST_DAY: Final = 21001231
"""Whole numbers that may be days written as yyyymmdd."""

DATE_PARTS: Final = ("seconds", "month", "weekday", "hour")
"""What a date becomes: seconds since 1970, month 1 to 12, day of the week 0 (Monday) to 6, hour 0 to 23."""

INDEX_NAMES: Final = re.compile(r"|unnamed: ?\d+(\.\d+)?|__index_level_\d+__|index|level_0", re.IGNORECASE)
"""Names that libraries give to the index of a table."""

ROW_NAMES: Final = re.compile(r"row|row[ _.]?(id|nr|no|num|number|names?)|#|n[ro]\.?", re.IGNORECASE)
"""Names of columns that number the rows, if their values count up by one."""

ID_NAMES: Final = re.compile(r"(.*[^A-Za-z])?(id|uuid|guid)([^A-Za-z].*)?|.*[a-z](ID|Id|UUID|Uuid)", re.DOTALL)
"""Names of ids."""

CODE_NAMES: Final = re.compile(r".*(zip|postal|postcode|plz).*", re.IGNORECASE | re.DOTALL)
"""Names of whole numbers that are categories."""


class OddKindError(ValueError):
    """The values of a column do not have the kind that a job takes it for."""


class Found(NamedTuple):
    """What a column holds, and what a person should know about it."""

    kind: ColumnKind
    form: Form | None = None
    warnings: tuple[str, ...] = ()
    may_be_id: bool = True


def describe(
    name: str,
    type_name: str,
    values: pa.Array,
    reading: Reading,
    *,
    wanted: str | None = None,
    kind: ColumnKind | None = None,
) -> Column:
    """Return what a column holds.

    Args:
        name: Its name.
        type_name: Its type in the file.
        values: Texts without spaces around them, numbers or booleans. Dates of a typed file are numbers of seconds.
        reading: How the file was read; its decimal mark decides where a column can be read in two ways.
        wanted: What a job takes it for; None finds out.
        kind: What it holds if the file says so.

    Raises:
        OddKindError: The values do not have the wanted kind; the message names the first that does not.
    """
    given = kind if wanted is None else CHOICES.get(wanted) or ColumnKind(wanted)
    if given == ColumnKind.DATE and pa.types.is_int64(values.type):
        values = values.cast(pa.string())
    if not pa.types.is_string(values.type):
        found = Found(_kind_of_typed(values, given))
    elif given is None:
        found = look(values, reading)
    else:
        found = _take(values, reading, wanted or given)
    column = Column(name=name, kind=found.kind, type=type_name, form=found.form, distinct=0)
    column = _with_statistics(column, values, may_be_unused=given is None and found.may_be_id)
    read_notes = _notes_on_reading(values, column)
    column = replace(column, warnings=(*read_notes, *found.warnings, *_future_notes(column)))
    return column if wanted is not None else _with_doubts(column, values)


def _kind_of_typed(values: pa.Array, given: ColumnKind | None) -> ColumnKind:
    is_boolean = pa.types.is_boolean(values.type)
    if given is ColumnKind.BOOLEAN and not is_boolean:
        odd = pc.invert(pc.is_in(values, pa.array([0, 1], values.type)))
        first = pc.index(pc.and_(odd, pc.is_valid(values)), True).as_py()
        if first >= 0:
            cell = f"{values[first].as_py():g} in row {first + 1}"
            raise OddKindError(f"the first cell that is neither 0 nor 1 is {cell}")
    return given or (ColumnKind.BOOLEAN if is_boolean else ColumnKind.NUMBER)


def look(values: pa.Array, reading: Reading) -> Found:
    """Find out what texts hold."""
    texts = Texts.of(values)
    if not texts.total:
        return Found(ColumnKind.CATEGORY)
    if _hold_booleans(texts):
        return Found(ColumnKind.BOOLEAN, None, tuple(boolean_notes(texts)))
    head = texts.head()
    padded = texts.matching(r"0\d+") if 2 * head.matching(r"\d+") >= head.total else 0
    if padded >= texts.total * PADDED_SHARE and texts.matching(r"\d+") >= texts.total * (1 - ODD_SHARE):
        warning = f"{padded:,} of {len(values):,} cells begin with 0: taken for codes"
        return Found(ColumnKind.CATEGORY, None, (warning,))
    distinct = len(texts.values)
    words = ColumnKind.CATEGORY if distinct <= min(MAX_LEVELS, len(values) / 2) else ColumnKind.TEXT
    return _look_for_numbers(texts, reading, words)


def _look_for_numbers(texts: Texts, reading: Reading, words: ColumnKind) -> Found:
    """Find out whether texts hold numbers or dates; if not, they are ``words``."""
    number, numbers, warnings = number_form(texts, reading)
    date, dates, others = date_form(texts, day_first=None)
    most, form, kind = max(
        (dates, date, ColumnKind.DATE), (numbers, number, ColumnKind.NUMBER), key=lambda item: item[0]
    )
    if form is None or most < texts.total * (1 - WANTED_ODD_SHARE):
        return Found(words, None, () if _are_labels(texts, words) else tuple(_numbers_in_words(texts)))
    if kind is ColumnKind.DATE and others:
        hint = "say date (the first) or day_first_date (the last) in dataset.columns to use them as dates"
        may_be = " or ".join((form.date, *others))
        return Found(words, None, (f"its dates may be {may_be}: {hint}",), may_be_id=False)
    if most >= texts.total * (1 - ODD_SHARE):
        kind = ColumnKind.NUMBER if form.date == CLOCK else kind
        return _found(kind, form, reading, warnings if kind is ColumnKind.NUMBER else ())
    if _are_labels(texts, words):
        return Found(words)
    odd = f"{texts.total - most:,} of {texts.total:,} cells are not {kind}s, so all are taken for {words}"
    hint = f"say {kind} in dataset.columns to count these as missing"
    return Found(words, None, tuple(_numbers_in_words(texts)) or (f"{odd}: {hint}",), may_be_id=False)


def _found(kind: ColumnKind, form: Form, reading: Reading, warnings: tuple[str, ...] = ()) -> Found:
    """Return what texts hold that have a form; among numbers, some may stand for no value."""
    return Found(kind, form if form.date else replace(form, missing=numbers_among(reading.na_values or ())), warnings)


def _are_labels(texts: Texts, words: ColumnKind) -> bool:
    """Return whether texts begin with numbers but are names, such as 1st, 2nd and 3rd, or a few sizes."""
    head = texts.head()
    units = units_of(head)
    if len(units) < 2 or sum(units.values()) < head.total * (1 - ODD_SHARE):
        return False
    is_few = words is ColumnKind.CATEGORY and len(texts.values) <= FEW_WORDS
    return is_few or all(NO_UNITS.fullmatch(unit) for unit in units)


def _numbers_in_words(texts: Texts) -> Iterator[str]:
    """Say if texts hold numbers in a way that is not read: with several units, or two in a cell."""
    head = texts.head()
    units = units_of(head)
    if 1 < len(units) <= MOST_UNITS and sum(units.values()) >= head.total * (1 - ODD_SHARE):
        named = ", ".join(f"{unit!r} ({cells:,})" for unit, cells in units.items())
        yield f"numbers with different units, so not read as numbers: {named}; write them in one unit"
    elif head.matching(TWO_NUMBERS) >= head.total * (1 - ODD_SHARE):
        first = shortened(head.values[0].as_py())
        yield f"two numbers in a cell, such as {first!r}, so not read as numbers: make a column of each"
    elif head.matching(WITH_REMARK) >= head.total * (1 - ODD_SHARE):
        marked = next((text for text in head.values.to_pylist() if not re.fullmatch(r"[+-]?[\d.,]+", text)), None)
        if marked is not None:
            behind = f"numbers with a remark behind, such as {shortened(marked)!r}, so not read as numbers"
            yield f"{behind}: remove it if it says nothing"


def _take(values: pa.Array, reading: Reading, wanted: str) -> Found:
    """Read texts as the kind that a job wants."""
    if wanted in (ColumnKind.CATEGORY, ColumnKind.TEXT):
        return Found(ColumnKind(wanted))
    if wanted == "merged_category":
        return Found(ColumnKind.CATEGORY, Form(spellings="merged"))
    texts = Texts.of(values)
    if wanted == ColumnKind.BOOLEAN:
        if not _hold_booleans(texts, or_digits=True):
            first = next(iter(texts.values.to_pylist()), "")
            raise OddKindError(f"expected two words such as true and false or 0 and 1; one is {shortened(first)!r}")
        return Found(ColumnKind.BOOLEAN, None, tuple(boolean_notes(texts)))
    if wanted == ColumnKind.NUMBER:
        form, fitting, warnings = number_form(texts, reading)
        found = _found(ColumnKind.NUMBER, form or Form(), reading, warnings)
    else:
        form, fitting, _ = date_form(texts, day_first=wanted == "day_first_date")
        found = _found(ColumnKind.DATE, form or Form(date="yyyy-mm-dd"), reading)
    if fitting < texts.total * (1 - WANTED_ODD_SHARE):
        assert found.form is not None
        odd = pc.and_(pc.is_valid(values), pc.is_null(read_texts(values, found.form)))
        first = pc.index(odd, True).as_py()
        cells = f"{texts.total - fitting:,} of {texts.total:,} cells are not {found.kind}s"
        raise OddKindError(f"{cells}, the first is {shortened(values[first].as_py())!r} in row {first + 1}")
    return found


def _hold_booleans(texts: Texts, *, or_digits: bool = False) -> bool:
    """Return whether the values stand for true and false; ``or_digits`` takes a column of only 0 and 1, too."""
    if len(texts.values) > MAX_LEVELS:
        return False
    words = set(pc.utf8_lower(texts.values).to_pylist())
    return are_booleans(words) or (or_digits and words <= {"0", "1"})


def values_of(column: Column, values: pa.Array) -> pa.Array:
    """Return the values that features are made of: numbers or texts, null where one is missing."""
    return read_as(column.kind, column.form, values)


def read_as(kind: ColumnKind, form: Form | None, values: pa.Array) -> pa.Array:
    """Return the values of a column that holds a kind; ``form`` says how its numbers or dates are written, if texts."""
    is_text = pa.types.is_string(values.type)
    if kind is ColumnKind.BOOLEAN:
        if not is_text:
            return values.cast(pa.int64())
        return read_booleans(values)
    if kind in (ColumnKind.NUMBER, ColumnKind.DATE):
        if form is None:
            return values.cast(pa.int64()) if pa.types.is_boolean(values.type) else values
        return read_texts(values.cast(pa.string()), form)
    if pa.types.is_floating(values.type):
        values = whole_if_all_are(values)
    texts = values if is_text else values.cast(pa.string())
    return merged(texts) if form is not None and form.spellings == "merged" else texts


def labels_of(column: Column, values: pa.Array) -> pa.Array:
    """Return the values of a target: those that features are made of, but booleans as words."""
    is_boolean = column.kind is ColumnKind.BOOLEAN
    return name_booleans(values.cast(pa.string())) if is_boolean else values_of(column, values)


def date_part(part: str, seconds: Numbers) -> Numbers:
    """Return one of ``DATE_PARTS`` of points in time; NaN stays NaN."""
    if part == "seconds":
        return seconds
    if part == "hour":
        return np.floor(seconds % SECONDS_PER_DAY / 3600)
    days = np.floor(seconds / SECONDS_PER_DAY)
    if part == "weekday":
        return (days + 3) % 7  # 1970 began on a Thursday
    known = np.isfinite(days)
    months = np.where(known, days, 0).astype(np.int64).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return np.where(known, months % 12 + 1.0, np.nan)


def _with_statistics(column: Column, values: pa.Array, may_be_unused: bool) -> Column:
    """Return the facts about a column with what is counted."""
    read = labels_of(column, values)
    missing = read.null_count
    column = replace(
        column,
        missing=missing,
        first_missing=pc.index(pc.is_null(read), True).as_py() + 1 if missing else None,
    )
    if pa.types.is_integer(read.type) or pa.types.is_floating(read.type):
        column = _with_numbers(column, read.drop_null().to_numpy())
    else:
        counted = read.drop_null().value_counts()
        few = len(counted) <= MAX_LEVELS
        levels = dict(sorted((item["values"], item["counts"]) for item in counted.to_pylist())) if few else None
        column = replace(column, distinct=len(counted), levels=levels)
    if may_be_unused and column.kind is not ColumnKind.DATE:
        return replace(column, unused=_unused(column, read))
    return column


def _with_numbers(column: Column, numbers: Numbers) -> Column:
    """Return the facts about a column with what its numbers say."""
    ordered = np.sort(numbers)  # numpy sorts faster than pyarrow counts
    in_order = np.array_equal(numbers, ordered) or np.array_equal(numbers[::-1], ordered)
    distinct = int(np.count_nonzero(ordered[1:] != ordered[:-1])) + bool(len(ordered))
    levels = None
    if distinct <= MAX_LEVELS:
        values, cells = np.unique(ordered, return_counts=True)
        levels = dict(zip(map(str, values.tolist()), cells.tolist(), strict=True))
    low, high = (ordered[0].item(), ordered[-1].item()) if distinct else (None, None)
    whole = bool((np.floor(ordered) == ordered).all())
    column = replace(column, distinct=distinct, levels=levels, whole=whole, low=low, high=high, in_order=in_order)
    if column.kind is ColumnKind.DATE:
        seconds = np.unique(ordered.astype(np.float64))
        return replace(column, parts=tuple(part for part in DATE_PARTS if np.ptp(date_part(part, seconds)) > 0))
    return replace(column, outliers=find_outliers(ordered)) if column.kind is ColumnKind.NUMBER else column


def _unused(column: Column, read: pa.Array) -> Unused | None:
    """Return why a column is no feature by default."""
    present = len(read) - column.missing
    if column.distinct < ID_SHARE * present or present < ID_SHARE * len(read) or column.distinct < 2:
        return None
    if column.kind is ColumnKind.NUMBER:
        if not column.whole:
            return None
        if INDEX_NAMES.fullmatch(column.name) or (ROW_NAMES.fullmatch(column.name) and _counts_up(column, len(read))):
            return Unused.INDEX
        return Unused.ID if ID_NAMES.fullmatch(column.name) else None
    if column.kind is ColumnKind.BOOLEAN:
        return None
    words = pc.sum(pc.match_substring_regex(read.drop_null(), r"\s").cast(pa.int64())).as_py()
    return Unused.ID if words <= present * (1 - ID_SHARE) else None


def _counts_up(column: Column, rows: int) -> bool:
    """Return whether a column of whole numbers has each from 0 or 1 on once."""
    low, high = column.low, column.high
    return low in (0, 1) and high is not None and column.distinct == rows == high - low + 1


def _with_doubts(column: Column, values: pa.Array) -> Column:
    """Return a column with warnings about what only its name or its numbers tell."""
    warnings = [*column.warnings, *_gap_notes(column, values)]
    if column.kind is ColumnKind.NUMBER and column.unused is None and column.whole:
        if CODE_NAMES.fullmatch(column.name) and column.distinct > 2:
            warnings.append("looks like a code, but is read as a number: say category in dataset.columns if it is one")
        elif _counts_up(column, len(values)):
            warnings.append("counts up by one: say ignore in dataset.columns if it only numbers the rows")
        elif TIMES.fullmatch(column.name) and (column.low or 0) >= OLDEST_DAY and (column.high or 0) <= NEWEST_DAY:
            warnings.append(f"looks like dates such as {column.low:.0f}: say date in dataset.columns to read them")
    if column.kind is ColumnKind.NUMBER and DAY_NAMES.search(column.name) and _are_days_of_excel(column):
        warnings.append("may count days as Excel does: write them as 2024-12-31 to have dates")
    if not column.is_numeric and pa.types.is_string(values.type):
        warnings += _notes_about_texts(column, values)
    return replace(column, warnings=tuple(warnings))


def _are_days_of_excel(column: Column) -> bool:
    first, last = DAYS_OF_EXCEL
    return column.low is not None and column.high is not None and first <= column.low <= column.high <= last


def _notes_about_texts(column: Column, values: pa.Array) -> Iterator[str]:
    if not column.warnings and TIMES.fullmatch(column.name):
        head = Texts.of(values[:SAMPLE])
        if 2 * head.matching(r"(?:\D*\d){4}(?s:.*)") > head.total:
            yield "looks like times that cannot be read: write them as 2024-12-31 or 2024-12-31 18:30"
    if column.unused is None and column.distinct <= MOST_SPELLINGS:  # more would take long to compare
        yield from category_notes(Texts.of(values))
        if column.kind is ColumnKind.CATEGORY:
            yield from mark_notes(values)


def _gap_notes(column: Column, values: pa.Array) -> Iterator[str]:
    """Say if the smallest or the largest number of a column looks like a mark of a missing value, such as -999."""
    if column.kind is not ColumnKind.NUMBER or column.distinct <= 2:
        return
    for end in (column.low, column.high):
        if end is None or abs(end) not in GAPS:
            continue
        numbers = values_of(column, values).drop_null().to_numpy()
        others = numbers[numbers != end]
        if np.abs(others - end).min() > 2 * np.ptp(others) and len(numbers) - len(others) > 1:
            count = f"{len(numbers) - len(others):,} of {len(values):,} cells are {end:g}"
            remedy = f"upload the file again with na_values={end:g} if that means no value"
            others_too = "then NA and null count as values: list them as well if they mean no value"
            yield f"{count}, far from all others: {remedy}; {others_too}"


def _notes_on_reading(values: pa.Array, column: Column) -> Iterator[str]:
    """Say which cells are read as something else than they may be."""
    if pa.types.is_string(values.type):
        yield from _odd_cells(values, column)
        is_grade = pc.match_substring_regex(values, r"^\d-$")
        if column.kind is ColumnKind.NUMBER and column.form is not None and pc.any(is_grade).as_py():
            row = pc.index(is_grade, True).as_py()
            grade = values[row].as_py()
            what = f"{grade!r} in row {row + 1} is read as -{grade[0]}"
            yield f"{what}: say category in dataset.columns if these are grades"
    elif column.type in ("int64", "uint64") and (pc.max(pc.abs(values)).as_py() or 0) > EXACT:
        rounded = "whole numbers over 2^53 are rounded, so that neighbours become equal"
        yield f"{rounded}: put a letter before each if they are ids"


def _future_notes(column: Column) -> Iterator[str]:
    """Say if years of two digits make dates in the future."""
    short = column.form is not None and re.search(r"\byy\b", column.form.date)
    if short and column.high is not None and column.high > time.time():
        last = dt.datetime.fromtimestamp(column.high, dt.UTC).date()
        century = f"years 00 to {LAST_SHORT_YEAR} are taken for 2000 to 20{LAST_SHORT_YEAR}"
        yield f"dates up to {last}, as {century}: write years with four digits if some are not in the future"


def _odd_cells(texts: pa.Array, column: Column) -> Iterator[str]:
    """Yield what became a missing value in a column that is taken for numbers, dates or booleans."""
    if not column.is_numeric:
        return
    if column.form is not None:
        texts = without(texts, column.form.missing, column.form)
    lost = pc.and_(pc.is_valid(texts), pc.is_null(values_of(column, texts)))
    if not pc.any(lost).as_py():
        return
    marks = pc.is_in(pc.utf8_lower(texts), pa.array(MARKS))
    what = {ColumnKind.DATE: "dates", ColumnKind.BOOLEAN: "booleans"}.get(column.kind, "numbers")
    odd = f"not {what}, so read as missing"
    for found, cells in ((odd, pc.and_not(lost, marks)), ("marks of missing values", pc.and_(lost, marks))):
        count = pc.sum(cells.cast(pa.int64())).as_py()
        if count:
            first = pc.index(cells, True).as_py()
            cell = f"{shortened(texts[first].as_py())!r} in row {first + 1}"
            yield f"{found}: {count:,} of {len(texts):,} cells, the first is {cell}"


def retyped(facts: DatasetFacts, wanted: Mapping[str, str], folder: Path) -> DatasetFacts:
    """Return the facts about a table with columns taken for what a job says.

    Args:
        facts: The facts about the dataset.
        wanted: Name of a column -> kind, or ``ignore``, which changes nothing here. Unknown names are left alone.
        folder: The dataset folder, from which only these columns are read.

    Raises:
        InvalidSpecError: The values of a column do not have the kind.
    """
    errors, columns = [], list(facts.columns)
    for index, column in enumerate(columns):
        kind = wanted.get(column.name)
        if kind is None or kind == "ignore":
            continue
        if kind == column.kind or (column.kind is ColumnKind.DATE and column.form is None and "date" in kind):
            columns[index] = replace(column, unused=None)
            continue
        values = pyarrow.parquet.read_table(folder / TABLE_FILE, columns=[column.name]).column(0).combine_chunks()
        try:
            if "date" in kind and pa.types.is_floating(values.type):
                raise OddKindError(f"the first is the number {values.drop_null()[0].as_py():g}")
            columns[index] = describe(column.name, column.type, values, facts.reading, wanted=kind)
        except OddKindError as error:
            wrong = f"must be a kind that the values have: {error}"
            errors.append(FieldError(f"dataset.columns.{column.name}", kind, wrong, code="conflict"))
    if errors:
        raise InvalidSpecError(*errors)
    return replace(facts, columns=tuple(columns))
