"""Reads Parquet, Feather and Excel files, and keeps any table as one Parquet file with facts about each column.

Numbers and booleans are kept as such, dates of a typed file as seconds since 1970, and all other cells as texts, as
they were in the file but for spaces around them. ``columns.py`` says what they hold.
"""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from service.data.columns import TABLE_FILE, describe
from service.data.contents import check_contents
from service.data.facts import EXACT, LARGEST, MIN_ROWS, ColumnKind, DatasetFacts, Layout, Reading
from service.data.forms import (
    PLAIN,
    Texts,
    decimal_mark,
    have_form,
    number_form,
    numbers_among,
    read_texts,
    whole_if_all_are,
    without,
)
from service.data.header import SAMPLE_ROWS, above_header, column_name, find_header, title_rows
from service.data.read_zip import open_zip
from service.errors import InvalidFileError, shortened
from service.spec.base import PRINTABLE

MAX_COLUMNS: Final = 4096
"""Most columns of a table. One-hot coding multiplies them."""

MAX_NAME: Final = 200
"""Most characters of a column name: the longest one that ``family.group_by`` takes."""

MAX_CELL_BYTES: Final = 1 << 20
"""Most bytes of a text in a cell."""

NULLS: Final = (*pyarrow.csv.ConvertOptions().null_values, "<NA>", "None", "NaT")
"""Cells without a value, unless the user lists others. They are those of pandas."""

INDEX_NAME: Final = "Unnamed: 0"
"""Name of a first column without one, as pandas calls it."""

UNITS_PER_SECOND: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Unit of time -> units in a second."""

SECONDS_PER_DAY: Final = 86_400.0

ROWS_AT_ONCE: Final = 1 << 17
"""Rows that are made ready to be written at once."""

TOTALS: Final = re.compile(
    r"(grand |sub)?(totals?|sum|summe|gesamt|insgesamt|average|mean|mittelwert):?", re.IGNORECASE
)
"""What the last row says if it adds up the others."""


@dataclass(frozen=True, slots=True)
class RawColumn:
    """A column as it is in the file.

    Attributes:
        type: Its type in the file.
        kind: What it holds if the file says so; None finds out.
    """

    name: str
    type: str
    values: pa.Array | pa.ChunkedArray
    kind: ColumnKind | None = None


def read_parquet(source: Path, folder: Path, max_bytes: int, reading: Reading) -> DatasetFacts:
    """Read a Parquet file; a reader of ``upload.py``."""
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            meta = file.metadata
            size = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
            _check_size(max(size, meta.num_rows * meta.num_columns), max_bytes)
            table = file.read()
            table.validate(full=True)  # that texts are UTF-8, among others
            given = (meta.metadata or {}).get(b"ARROW:schema")
            schema = table.schema if given is None else pa.ipc.read_schema(pa.py_buffer(base64.b64decode(given)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidFileError(f"the file cannot be read as Parquet: {error}") from error
    return keep(_typed_columns(table, schema), folder, max_bytes, reading)


def read_feather(source: Path, folder: Path, max_bytes: int, reading: Reading) -> DatasetFacts:
    """Read a Feather file; a reader of ``upload.py``."""
    pieces, size = [], 0
    try:
        with pa.ipc.open_file(source) as file:
            for index in range(file.num_record_batches):
                piece = file.get_batch(index)
                piece.validate(full=True)
                size += piece.nbytes
                _check_size(size, max_bytes)
                pieces.append(piece)
            table = pa.Table.from_batches(pieces, file.schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InvalidFileError):
            raise
        raise InvalidFileError(f"the file cannot be read as Feather: {error}") from error
    return keep(_typed_columns(table, table.schema), folder, max_bytes, reading)


def _typed_columns(table: pa.Table, schema: pa.Schema) -> list[RawColumn]:
    """Return the columns of a file that has types. A dictionary holds categories, whatever its values are.

    ``schema`` has the types with which the table was written; pyarrow reads dictionaries of numbers as numbers.
    """
    columns = []
    for name, values in zip(table.column_names, table.columns, strict=True):
        kind, index = None, schema.get_field_index(name)
        if index >= 0 and pa.types.is_dictionary(schema.field(index).type):
            kind = ColumnKind.CATEGORY
        elif pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
            kind = ColumnKind.DATE
        columns.append(RawColumn(name.strip(), str(values.type), values, kind))
    return columns


def read_excel(source: Path, folder: Path, max_bytes: int, reading: Reading) -> DatasetFacts:
    """Read the first sheet of an Excel file with a header; a reader of ``upload.py``."""
    import python_calamine

    if not zipfile.is_zipfile(source):
        check_contents(source, "Excel")
        raise InvalidFileError("the file is not Excel: if it is a text, give its name the ending .csv")
    with open_zip(source, max_bytes):
        pass  # nothing in it is larger than allowed
    try:
        book = python_calamine.CalamineWorkbook.from_path(source)
        rows = book.get_sheet_by_index(0).to_python()
    except python_calamine.CalamineError as error:
        raise InvalidFileError(f"the file cannot be read as Excel: {error}") from error
    if not rows:
        raise InvalidFileError("the first sheet of the file is empty")
    titles = title_rows(rows) if reading.header != "none" else 0
    rows = rows[titles:]
    header = find_header([[_text(cell) for cell in row] for row in rows[: SAMPLE_ROWS + 1]], reading)
    if header.exists:
        names, rows = [_text(cell).strip() for cell in rows[0]], rows[1:]
    else:
        names, reading = [column_name(index + 1) for index in range(len(rows[0]))], replace(reading, header="none")
    cells = zip(*rows, strict=True) if rows else ((),) * len(names)
    columns, notes = list[RawColumn](), list[str]()
    for name, column in zip(names, cells, strict=True):
        same, found = _in_one_form(column, reading)
        columns.append(_excel_column(name, same))
        notes += [f"column {name!r}: {note}" for note in found]
    more = (f"the first of {len(book.sheet_names)} sheets is read",) if len(book.sheet_names) > 1 else ()
    above = above_header(titles) if titles else ()
    try:
        return keep(columns, folder, max_bytes, reading, (*more, *above, *header.notes, *notes))
    except InvalidFileError as error:
        raise InvalidFileError("; ".join((str(error), *more))) from None


def _in_one_form(cells: Sequence[Any], reading: Reading) -> tuple[list[Any], tuple[str, ...]]:
    """Return cells with numbers, and texts such as 7,5 among them, written with the same decimal mark; and notes.

    How the texts are written is found from the texts alone, as Excel has said what the numbers are.
    """
    texts = pa.array([(cell.strip() or None) if isinstance(cell, str) else None for cell in cells], pa.string())
    if texts.null_count == len(cells) or not any(type(cell) in (int, float) for cell in cells):
        return list(cells), ()
    plain = replace(PLAIN, decimal=decimal_mark(reading) or PLAIN.decimal)
    form, _, notes = number_form(Texts.of(texts), reading)
    if form is None or form.unit:  # the numbers may be of another unit
        form, notes = plain, ()
    is_other = pc.and_not(have_form(texts, form), have_form(texts, plain)).to_pylist()
    numbers = read_texts(texts, form).to_pylist()
    read = [number if other else cell for cell, number, other in zip(cells, numbers, is_other, strict=True)]
    return [_text(cell).replace(".", plain.decimal) if type(cell) in (int, float) else cell for cell in read], notes


def _excel_column(name: str, cells: Sequence[Any]) -> RawColumn:
    given = [None if cell == "" else cell for cell in cells]
    types = {type(cell) for cell in given if cell is not None}
    if types and types <= {int, float}:
        return RawColumn(name, "number", whole_if_all_are(pa.array(given, pa.float64())))
    if types and types <= {dt.date, dt.datetime}:
        times = [None if cell is None else _point_in_time(cell) for cell in given]
        return RawColumn(name, "timestamp[us]", pa.array(times, pa.timestamp("us")), ColumnKind.DATE)
    for kinds, type_ in (
        ({bool}, pa.bool_()),
        ({dt.time}, pa.time64("us")),
        ({dt.timedelta}, pa.duration("us")),
    ):
        if types and types <= kinds:
            return RawColumn(name, str(type_), pa.array(given, type_))
    return RawColumn(name, "string", pa.array([None if cell is None else _text(cell) for cell in given], pa.string()))


def _point_in_time(cell: dt.date) -> dt.datetime:
    """Return a point in time as one. Excel has no other days than midnights, and its reader takes these for days."""
    return cell if isinstance(cell, dt.datetime) else dt.datetime.combine(cell, dt.time())


def _text(cell: object) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InvalidFileError(f"the table has {size} bytes unpacked; at most {max_bytes} are allowed")


def check_names(names: Sequence[str]) -> None:
    """Refuse names of columns that nobody could choose. The first column, and empty ones, may have no name.

    Raises:
        InvalidFileError: Says which name is wrong.
    """
    if not 1 <= len(names) <= MAX_COLUMNS:
        raise InvalidFileError(f"the table has {len(names)} columns; 1 to {MAX_COLUMNS} are allowed")
    for index, name in enumerate(names, 1):
        if not re.fullmatch(PRINTABLE, name):
            found = f"the name {shortened(name)!r}, with a control character in it"
            raise InvalidFileError(f"column {index} has {found}; rename it")
        if len(name) > MAX_NAME:
            found = f"a name of {len(name)} characters, {shortened(name)!r}"
            raise InvalidFileError(f"column {index} has {found}; at most {MAX_NAME} are allowed")
        if name and name in names[: index - 1]:
            raise InvalidFileError(f"column {index} has the name {name!r} of another column; rename one of them")


def keep(
    columns: list[RawColumn], folder: Path, max_bytes: int, reading: Reading, warnings: tuple[str, ...] = ()
) -> DatasetFacts:
    """Write a table to a dataset folder and return the facts about it.

    ``columns`` is empty afterwards, so that each is in memory only once.

    Raises:
        InvalidFileError: It is not a table that can be trained on.
    """
    check_names([column.name for column in columns])
    rows = len(columns[0].values)
    if rows < MIN_ROWS:
        raise InvalidFileError(f"the table has {rows} rows below the header; at least {MIN_ROWS} are needed")
    columns[:] = _named(columns, rows)
    heads = [(column.name, column.type, column.kind) for column in columns]
    pieces = (columns.pop(0) for _ in heads)  # each is freed as soon as it is clean
    with ThreadPoolExecutor(pa.cpu_count()) as threads:
        cells = list(threads.map(_clean, pieces, itertools.repeat(reading)))
        _check_size(sum(values.nbytes for values in cells), max_bytes)
        pa.default_memory_pool().release_unused()
        table = {name: values for (name, _, _), values in zip(heads, cells, strict=True)}
        written = threads.submit(_write, table, folder / TABLE_FILE)
        described = tuple(
            threads.map(lambda head, values: describe(head[0], head[1], values, reading, kind=head[2]), heads, cells)
        )
        written.result()
    found = (*warnings, *_repeated_header(table), *_total_row(table, rows))
    return DatasetFacts(layout=Layout.TABLE, rows=rows, columns=described, reading=reading, warnings=found)


def with_index_name(names: Sequence[str]) -> list[str]:
    """Return the names of columns, with one for a first column without a name: ``INDEX_NAME``, or as pandas another."""
    others = (f"{INDEX_NAME}.{number}" for number in itertools.count(1))
    free = next(name for name in itertools.chain([INDEX_NAME], others) if name not in names)
    return [name or (free if index == 0 else "") for index, name in enumerate(names)]


def _named(columns: Sequence[RawColumn], rows: int) -> Iterator[RawColumn]:
    """Yield columns that have a name, with one for the first. Empty ones without a name come of separators."""
    names = with_index_name([column.name for column in columns])
    for index, (name, column) in enumerate(zip(names, columns, strict=True), 1):
        if name:
            yield replace(column, name=name)
        elif column.values.null_count < rows:
            raise InvalidFileError(f"column {index} has no name; add one to the header")


def _write(cells: dict[str, pa.Array], target: Path) -> None:
    texts = [name for name, values in cells.items() if pa.types.is_string(values.type)]
    pyarrow.parquet.write_table(
        pa.table(cells), target, row_group_size=ROWS_AT_ONCE, use_dictionary=texts or False, write_statistics=False
    )


def _repeated_header(columns: dict[str, pa.Array]) -> Iterator[str]:
    """Say if rows are the header again, as where files were joined. Then no column is one of numbers."""
    rows = None
    for name, values in columns.items():
        if not pa.types.is_string(values.type):
            return
        same = pc.fill_null(pc.equal(values, name), False)
        rows = same if rows is None else pc.and_(rows, same)
        if not pc.any(rows).as_py():
            return
    if rows is not None:
        count, first = pc.sum(rows.cast(pa.int64())).as_py(), pc.index(rows, True).as_py() + 1
        more = f" and {count - 1:,} more" if count > 1 else ""
        yield f"row {first}{more} repeats the names of the columns: remove it from the file"


def _total_row(columns: dict[str, pa.Array], rows: int) -> Iterable[str]:
    for name, values in columns.items():
        last = values[rows - 1].as_py()
        if isinstance(last, str) and TOTALS.fullmatch(last):
            yield f"row {rows} has {last!r} in column {name!r}: remove it from the file if it adds up the others"
            return


def trimmed(texts: pa.Array, nulls: Iterable[str]) -> pa.Array:
    """Return texts without spaces around them, null where nothing or a mark for a missing value is left."""
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.is_in(texts, pa.array(["", *nulls])), pa.scalar(None, pa.string()), texts)


def _clean(column: RawColumn, reading: Reading) -> pa.Array:
    """Return a column as numbers, booleans or texts. Times become seconds."""
    values, kind = column.values, column.values.type
    _check_cells(column.name, values)
    if isinstance(values, pa.ChunkedArray) and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        values = values.combine_chunks()  # numbers stay in pieces, which saves the memory of a copy
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if column.kind is ColumnKind.CATEGORY and pa.types.is_primitive(values.type):
        values = values.cast(pa.string())
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return trimmed(values.cast(pa.string()), NULLS if reading.na_values is None else reading.na_values)
    if pa.types.is_boolean(kind):
        return values
    has_numbers = pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    if pa.types.is_interval(kind) or not has_numbers:
        wrong = f"column {column.name!r} has the type {kind}"
        raise InvalidFileError(f"{wrong}; convert it to numbers, texts, times or booleans")
    if pa.types.is_temporal(kind):
        values = times_as_seconds(values)
    return without(_numbers(column.name, values), numbers_among(reading.na_values or ()), PLAIN)


def _check_cells(name: str, values: pa.Array | pa.ChunkedArray) -> None:
    """Refuse a text that is too long. One in a dictionary has no row."""
    pieces = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    for texts in (piece.dictionary if pa.types.is_dictionary(piece.type) else piece for piece in pieces):
        if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
            longest = pc.max(pc.binary_length(texts)).as_py() or 0
            if longest > MAX_CELL_BYTES:
                raise InvalidFileError(
                    f"column {name!r} has a text of {longest} bytes; at most {MAX_CELL_BYTES} are allowed"
                )


def _numbers(name: str, values: pa.Array) -> pa.Array:
    """Return whole numbers, or finite ones. NaN becomes a missing value."""
    if pa.types.is_integer(values.type) and values.type != pa.uint64():
        values = values.cast(pa.int64())
        if all(abs(end or 0) <= EXACT for end in pc.min_max(values).as_py().values()):
            return values
    numbers = values.cast(pa.float64(), safe=False)
    if pc.all(pc.less_equal(pc.abs(numbers), LARGEST)).as_py() is not False:  # False for NaN, too
        return numbers
    numbers = pc.if_else(pc.fill_null(pc.is_nan(numbers), False), pa.scalar(None, pa.float64()), numbers)
    wrong = pc.index(pc.fill_null(pc.greater(pc.abs(numbers), LARGEST), False), True).as_py()
    if wrong >= 0:
        number = numbers[wrong].as_py()
        found = f"{'infinite' if math.isinf(number) else f'{number:g}'} in row {wrong + 1}"
        wrong = f"column {name!r} is {found}; expected a finite number of 32 bits"
        cell = f"{number:g}"  # as most files write it
        remedy = f"a CSV file has it as {cell}, upload the file again with na_values={cell} if that means no value"
        raise InvalidFileError(f"{wrong}: replace it in the file; or if {remedy}")
    return numbers


def times_as_seconds(values: pa.Array) -> pa.Array:
    """Return dates, times of day, durations and points in time as numbers, which have room for all of them."""
    kind = values.type
    counts = values.view(pa.int64() if kind.bit_width == 64 else pa.int32()).cast(pa.float64(), safe=False)
    if pa.types.is_date32(kind):
        return pc.multiply(counts, SECONDS_PER_DAY)
    return pc.divide(counts, UNITS_PER_SECOND["ms" if pa.types.is_date64(kind) else kind.unit])
