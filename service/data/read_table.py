"""Reads CSV and Parquet files into one Parquet file of numbers and texts, with facts about each column."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from service.data.facts import EXACT, LARGEST, MAX_LEVELS, MIN_ROWS, Column, ColumnKind, DatasetFacts, Layout
from service.data.read_text import CHUNK_BYTES, check_utf8
from service.errors import InvalidFileError, shortened

TABLE_FILE: Final = "table.parquet"
"""File of a dataset folder that the table is kept in."""

MAX_COLUMNS: Final = 4096
"""Most columns of a table. One-hot coding multiplies them."""

MAX_NAME: Final = 200
"""Most characters of a column name: the longest one that ``family.group_by`` takes."""

UNITS_PER_SECOND: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Unit of time -> units in a second."""

SECONDS_PER_DAY: Final = 86_400.0

MAX_BLOCK_BYTES: Final = 2**31 - 1
"""Largest block that pyarrow reads. It infers the type of a column from the first block."""


def read_csv(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Read a CSV file with a header; a reader of ``upload.py``."""
    check_utf8(source)
    _check_separator(source)
    block = min(max(source.stat().st_size, 1024), MAX_BLOCK_BYTES)
    try:
        table = pyarrow.csv.read_csv(
            source,
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=block),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, check_utf8=True),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise InvalidFileError(f"the file cannot be read as CSV: {error}") from error
    return _keep(table, folder, max_bytes)


def read_parquet(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Read a Parquet file; a reader of ``upload.py``."""
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            meta = file.metadata
            size = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
            _check_size(max(size, meta.num_rows * meta.num_columns), max_bytes)
            table = file.read()
            table.validate(full=True)  # that texts are UTF-8, among others
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"the file cannot be read as Parquet: {error}") from error
    return _keep(table, folder, max_bytes)


def _check_separator(source: Path) -> None:
    with source.open(encoding="utf-8-sig") as file:
        header = file.readline(CHUNK_BYTES)
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if mark in header and "," not in header:
            found = shortened(header.rstrip())
            raise InvalidFileError(f"the header {found!r} is separated by {word}; separate the columns by commas")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InvalidFileError(f"the table has {size} bytes unpacked; at most {max_bytes} are allowed")


def _keep(table: pa.Table, folder: Path, max_bytes: int) -> DatasetFacts:
    names = table.column_names
    for index, name in enumerate(names, 1):
        if not name.strip():
            raise InvalidFileError(f"column {index} has no name; add one to the header")
        if any(unicodedata.category(character) == "Cc" for character in name):
            found = f"the name {shortened(name)!r}, with a control character in it"
            raise InvalidFileError(f"column {index} has {found}; rename it")
        if len(name) > MAX_NAME:
            found = f"a name of {len(name)} characters, {shortened(name)!r}"
            raise InvalidFileError(f"column {index} has {found}; at most {MAX_NAME} are allowed")
        if name in names[: index - 1]:
            raise InvalidFileError(f"column {index} has the name {name!r} of another column; rename one of them")
    if not 1 <= len(names) <= MAX_COLUMNS:
        raise InvalidFileError(f"the table has {len(names)} columns; 1 to {MAX_COLUMNS} are allowed")
    if table.num_rows < MIN_ROWS:
        raise InvalidFileError(f"the table has {table.num_rows} rows below the header; at least {MIN_ROWS} are needed")
    _check_size(table.nbytes, max_bytes)
    clean = {name: _clean(name, table.column(name).combine_chunks()) for name in names}
    columns = tuple(_describe(name, str(table.field(name).type), values) for name, values in clean.items())
    pyarrow.parquet.write_table(pa.table(clean), folder / TABLE_FILE)
    return DatasetFacts(layout=Layout.TABLE, rows=table.num_rows, columns=columns)


def _clean(name: str, values: pa.Array) -> pa.Array:
    """Return a column as numbers or texts. NaN becomes a missing value, and times become seconds."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    if pa.types.is_temporal(kind):
        values = _seconds(values)
    elif pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and kind != pa.uint64()):
        values = values.cast(pa.int64())
    elif not (pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind) or kind == pa.uint64()):
        raise InvalidFileError(f"column {name!r} has the type {kind}; convert it to numbers, texts, times or booleans")
    if values.type == pa.int64() and all(abs(end or 0) <= EXACT for end in pc.min_max(values).as_py().values()):
        return values
    numbers = values.cast(pa.float64(), safe=False)
    numbers = pc.if_else(pc.fill_null(pc.is_nan(numbers), False), pa.scalar(None, pa.float64()), numbers)
    wrong = pc.index(pc.fill_null(pc.greater(pc.abs(numbers), LARGEST), False), True).as_py()
    if wrong >= 0:
        number = numbers[wrong].as_py()
        found = "infinite" if math.isinf(number) else f"{number:g}"
        raise InvalidFileError(f"column {name!r} is {found} in row {wrong + 1}; expected a finite number of 32 bits")
    return numbers


def _seconds(values: pa.Array) -> pa.Array:
    """Return dates, times of day, durations and points in time as numbers, which have room for all of them."""
    kind = values.type
    counts = values.view(pa.int64() if kind.bit_width == 64 else pa.int32()).cast(pa.float64(), safe=False)
    if pa.types.is_date32(kind):
        return pc.multiply(counts, SECONDS_PER_DAY)
    return pc.divide(counts, UNITS_PER_SECOND["ms" if pa.types.is_date64(kind) else kind.unit])


def _describe(name: str, type_name: str, values: pa.Array) -> Column:
    missing = values.null_count
    distinct = pc.count_distinct(values, mode="only_valid").as_py()
    first = pc.index(pc.is_null(values), True).as_py() + 1 if missing else None
    levels: dict[str, int] | None = None
    if distinct <= MAX_LEVELS:
        counts = pc.value_counts(values.drop_null()).to_pylist()
        counted = sorted((item["values"], item["counts"]) for item in counts)
        levels = {str(value): count for value, count in counted}
    column = Column(
        name=name,
        kind=ColumnKind.TEXT if levels is None else ColumnKind.CATEGORY,
        type=type_name,
        missing=missing,
        first_missing=first,
        distinct=distinct,
        levels=levels,
    )
    if pa.types.is_string(values.type):
        return column
    ends = pc.min_max(values).as_py()
    whole = pa.types.is_integer(values.type) or all(math.floor(float(v)) == float(v) for v in levels or {"0.5": 1})
    return replace(column, kind=ColumnKind.NUMBER, whole=whole, low=ends["min"], high=ends["max"])
