# CSV and Parquet become one Parquet file of numbers and texts, and facts about each column. A file that cannot be read
# is refused with the row and the column. Arrays and images are in arrays.py and images.py.
"""Tables: reading, checking, describing."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from service.data.facts import EXACT, LARGEST, MAX_LEVELS, MIN_ROWS, Column, ColumnKind, DatasetFacts, Layout
from service.data.text import CHUNK_BYTES, check_utf8
from service.errors import InvalidFileError, shortened

TABLE_FILE: Final = "table.parquet"
"""Name of the file that a table is kept in."""

MAX_COLUMNS: Final = 4096
"""Columns of the widest table; one-hot coding multiplies them."""

MAX_NAME: Final = 200
"""Characters of the longest column name: what a job's ``family.group_by`` can say."""

UNITS_PER_SECOND: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Unit of a time -> how many of them are a second."""

SECONDS_PER_DAY: Final = 86_400.0

MAX_BLOCK_BYTES: Final = 2**31 - 1
"""Largest block that pyarrow reads; the types of a column are found out from the first block."""


def read_csv(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Read a CSV file with a header and keep it in ``folder``.

    Args:
        source: The file.
        folder: Where to keep it.
        max_bytes: Most bytes that it may take in memory.

    Raises:
        InvalidFileError: It cannot be read, or not as a table.
    """
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
        raise InvalidFileError(f"it is no CSV table: {error}") from error
    return _keep(table, folder, max_bytes)


def read_parquet(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Read a Parquet file and keep it in ``folder``.

    Args:
        source: The file.
        folder: Where to keep it.
        max_bytes: Most bytes that it may take in memory.

    Raises:
        InvalidFileError: It cannot be read, or a column is no column of numbers or texts.
    """
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            meta = file.metadata
            size = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
            _check_size(max(size, meta.num_rows * meta.num_columns), max_bytes)
            table = file.read()
            table.validate(full=True)  # that texts are UTF-8, among others
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"it is no whole Parquet file: {error}") from error
    return _keep(table, folder, max_bytes)


def _check_separator(source: Path) -> None:
    with source.open(encoding="utf-8-sig") as file:
        header = file.readline(CHUNK_BYTES)
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if mark in header and "," not in header:
            found = shortened(header.rstrip())
            raise InvalidFileError(f"its header {found!r} is separated by {word}; expected commas")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InvalidFileError(f"unpacked it has {size} bytes, more than the {max_bytes} that are allowed")


def _keep(table: pa.Table, folder: Path, max_bytes: int) -> DatasetFacts:
    names = table.column_names
    for index, name in enumerate(names, 1):
        if not name.strip():
            raise InvalidFileError(f"column {index} has no name")
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise InvalidFileError(f"column {index} has the name {shortened(name)!r}, with a control character in it")
        if len(name) > MAX_NAME:
            found = f"a name of {len(name)} characters, {shortened(name)!r}"
            raise InvalidFileError(f"column {index} has {found}; {MAX_NAME} are the most")
        if name in names[: index - 1]:
            raise InvalidFileError(f"column {index} has the name {name!r}, which another column has too")
    if not 1 <= len(names) <= MAX_COLUMNS:
        raise InvalidFileError(f"it has {len(names)} columns; 1 to {MAX_COLUMNS} are possible")
    if table.num_rows < MIN_ROWS:
        raise InvalidFileError(f"it has {table.num_rows} rows below the header; {MIN_ROWS} are the fewest")
    _check_size(table.nbytes, max_bytes)
    clean = {name: _clean(name, table.column(name).combine_chunks()) for name in names}
    columns = tuple(_describe(name, str(table.field(name).type), values) for name, values in clean.items())
    pyarrow.parquet.write_table(pa.table(clean), folder / TABLE_FILE)
    return DatasetFacts(layout=Layout.TABLE, rows=table.num_rows, columns=columns)


def _clean(name: str, values: Any) -> Any:
    """Return the column as numbers or texts; NaN is a missing value, times are seconds."""
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
        raise InvalidFileError(f"column {name!r} has the type {kind}; numbers, texts, times and booleans can be used")
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


def _seconds(values: Any) -> Any:
    """Return dates, times of day, durations and points in time as numbers; none is out of their range."""
    kind = values.type
    counts = values.view(pa.int64() if kind.bit_width == 64 else pa.int32()).cast(pa.float64(), safe=False)
    if pa.types.is_date32(kind):
        return pc.multiply(counts, SECONDS_PER_DAY)
    return pc.divide(counts, UNITS_PER_SECOND["ms" if pa.types.is_date64(kind) else kind.unit])


def _describe(name: str, type_name: str, values: Any) -> Column:
    missing = values.null_count
    distinct = pc.count_distinct(values, mode="only_valid").as_py()
    first = pc.index(pc.is_null(values), True).as_py() + 1 if missing else None
    levels: dict[str, int] | None = None
    if distinct <= MAX_LEVELS:
        counts = pc.value_counts(values.drop_null()).to_pylist()
        counted = sorted((item["values"], item["counts"]) for item in counts)
        levels = {str(value): count for value, count in counted}
    if pa.types.is_string(values.type):
        kind = ColumnKind.TEXT if levels is None else ColumnKind.CATEGORY
        return Column(
            name=name, kind=kind, type=type_name, missing=missing, first_missing=first, distinct=distinct, levels=levels
        )
    ends = pc.min_max(values).as_py()
    whole = pa.types.is_integer(values.type) or all(math.floor(float(v)) == float(v) for v in levels or {"0.5": 1})
    return Column(
        name=name,
        kind=ColumnKind.NUMBER,
        type=type_name,
        missing=missing,
        first_missing=first,
        distinct=distinct,
        whole=bool(whole),
        levels=levels,
        low=ends["min"],
        high=ends["max"],
    )
