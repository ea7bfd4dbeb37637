"""Reads CSV files: finds encoding, separator and decimal mark, and keeps numbers as numbers and the rest as texts.

All cells are read as texts; a column becomes numbers if all of its cells are. Columns that begin with fractions are
read as numbers at once, which takes less time and memory. If a later cell is something else, the file is read again.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import re
import statistics
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import charset_normalizer
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from service.data.columns import ID_NAMES, ROW_NAMES
from service.data.contents import check_contents
from service.data.facts import DatasetFacts, Reading
from service.data.forms import ODD_SHARE, UNITS, decimal_mark
from service.data.header import NUMBER, SAMPLE_ROWS, above_header, column_name, find_header, title_rows
from service.data.read_table import NULLS, RawColumn, check_names, keep, trimmed
from service.data.read_text import CHUNK_BYTES
from service.errors import InvalidFileError, shortened

DELIMITERS: Final = "\t;|,"
"""What may separate the cells of a row, unless the user says it; the last is the one that texts have most often."""

SAMPLE_BYTES: Final = 1 << 18
"""Bytes in which separator, header and decimal mark are looked for."""

BLOCK_BYTES: Final = 1 << 21
"""Bytes that are read at once, and the most that a row may have."""

MAX_ODD_COLUMNS: Final = 4
"""After so many columns that began with fractions and went on with other cells, all are read as texts."""

ODD_COLUMN: Final = re.compile(r"In CSV column #(\d+): CSV conversion error to double")
"""How pyarrow names a column with a cell that is not a number."""

MAX_CELL: Final = 1 << 24
"""Characters of the longest cell in a file with cells of several lines."""

GZIP: Final = b"\x1f\x8b"
"""How a gzip file begins."""

BOMS: Final = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""How a file begins that says its encoding."""

WIDE: Final = {"utf-16-le": re.compile(rb"([^\0]\0){4}"), "utf-16-be": re.compile(rb"(\0[^\0]){4}")}
"""How a file of UTF-16 begins that does not say so."""

ENCODINGS: Final = ("cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030", "big5", "euc_kr")
"""Encodings of other alphabets than the Latin one."""

RUNS: Final = re.compile(rb"[\x80-\xff]{2,}")
"""Letters next to each other that are not in ASCII."""

AROUND_NUMBERS: Final = " \u00a0" + "".join(UNITS)
"""Characters that may stand before and after a number."""

WITH_COMMA: Final = re.compile(r"[+-]?\d+(\.\d{3})*,\d+")
WITH_POINT: Final = re.compile(r"[+-]?\d+(,\d{3})*\.\d+")
THOUSANDS: Final = re.compile(r"[+-]?[1-9]\d{0,2}([.,]\d{3})+")

Rows = list[list[str]]


@dataclass(frozen=True, slots=True)
class _Header:
    """The names of the columns, and the lines of the file down to where the rows begin."""

    names: list[str]
    lines: int


def read_csv(source: Path, folder: Path, max_bytes: int, reading: Reading) -> DatasetFacts:
    """Read a CSV file with a header; a reader of ``upload.py``."""
    columns, reading, notes = read_columns(source, max_bytes, reading)
    return keep(columns, folder, max_bytes, reading, notes)


def read_columns(
    source: Path, max_bytes: int, reading: Reading, *, as_texts: bool = False
) -> tuple[list[RawColumn], Reading, tuple[str, ...]]:
    """Return the columns of a CSV file with a header, how they were read, and what a person should know about that.

    ``as_texts`` keeps numbers as written, but for spaces around them, and takes empty lines among those of a file of
    one column for missing values.

    Raises:
        InvalidFileError: The file cannot be used.
    """
    source = _unpacked(source, max_bytes)
    check_contents(source, "CSV")
    wanted = reading.encoding
    encoding, has_quotes = _encoding(source, wanted)
    sample = _sample(source, encoding)
    if "\0" in sample:
        raise InvalidFileError("the file is not text: it has zero bytes; save its table as .csv or .xlsx")
    delimiter = reading.delimiter or _delimiter(sample)
    rows, lines = _rows(sample, delimiter)
    if not rows:
        raise InvalidFileError("the file has no header: every line is empty")
    titles = title_rows(rows) if reading.header != "none" else 0
    rows, lines = rows[titles:], lines[titles:]
    decimal = decimal_mark(reading) or _decimal(rows[1:], delimiter)
    reading = replace(reading, encoding=encoding, delimiter=delimiter, decimal=decimal)
    found, row_names = find_header(rows, reading), tuple[str, ...]()
    if found.exists:
        try:
            header = _Header(header_names(rows), lines[0])
        except ValueError as error:
            raise InvalidFileError(str(error)) from error
        if len(header.names) > len(rows[0]) and header.names[-1]:
            wrong = "name each column, and put quotes around cells with a separator in them, if that is wrong"
            first = f"the first is taken as row names, such as {shortened(rows[1][0])!r}"
            row_names = (f"the rows have one cell more than the header, so {first}: {wrong}",)
        rows = rows[1:]
    else:
        names = [column_name(index + 1) for index in range(len(rows[0]))]
        header, reading = _Header(names, lines[0] - 1 if titles else 0), replace(reading, header="none")
    try:
        columns = _columns(source, header, reading, has_quotes, rows, as_texts=as_texts)
    except (pa.ArrowInvalid, UnicodeError) as error:
        if has_quotes:
            _check_quotes(source, reading, len(header.names))
        wrong = str(error).removeprefix("CSV parse error: ")
        if "straddling" in wrong:
            wrong = f"a row has over {BLOCK_BYTES} bytes, the most that is allowed"
        raise InvalidFileError(f"the file cannot be read as CSV: {wrong}") from error
    if has_quotes and any(_has_lines(column) for column in columns):
        _check_quotes(source, reading, len(header.names))
    above = above_header(lines[0] - 1) if titles else ()
    return columns, reading, (*_guessed_encoding(encoding, wanted, sample), *above, *found.notes, *row_names)


def _guessed_encoding(encoding: str, wanted: str | None, sample: str) -> tuple[str, ...]:
    if encoding == wanted or encoding.startswith("utf"):
        return ()
    word = next((found[0] for found in re.finditer(r"\w+", sample) if not found[0].isascii()), None)
    seen = f", with words such as {shortened(word)!r}" if word else ""
    return (f"the file is not UTF-8, so it is read as {encoding}{seen}: give the encoding if that is wrong",)


def _unpacked(source: Path, max_bytes: int) -> Path:
    """Return a file without its gzip compression, next to it if it has any."""
    with source.open("rb") as file:
        if file.read(2) != GZIP:
            return source
    target = source.with_name("unpacked")
    try:
        with gzip.open(source) as packed, target.open("wb") as file:
            while piece := packed.read(CHUNK_BYTES):
                file.write(piece)
                if file.tell() > max_bytes:
                    raise InvalidFileError(f"the file has over {max_bytes} bytes unpacked, the most that is allowed")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidFileError(f"the file cannot be read as gzip: {error}") from error
    return target


def _encoding(source: Path, wanted: str | None) -> tuple[str, bool]:
    """Return the encoding of a file, and whether it has quotes.

    A file that is not UTF-8 is taken for Western European text (cp1252), whose special letters mostly stand alone,
    unless there are words of such letters.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    found, has_quotes, odd_lines = wanted, False, bytearray()
    with source.open("rb") as file:
        found = found or next((name for bom, name in BOMS.items() if file.peek().startswith(bom)), None)
        found = found or next((name for name, start in WIDE.items() if start.match(file.peek())), None)
        is_utf8 = found is None
        while chunk := file.read(CHUNK_BYTES):
            has_quotes = has_quotes or b'"' in chunk
            if is_utf8:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    is_utf8 = False
            if found is None and not is_utf8 and len(odd_lines) < SAMPLE_BYTES:
                odd_lines += b"\n".join(line for line in chunk.split(b"\n") if not line.isascii())
    if found is not None or (is_utf8 and not decoder.getstate()[0]):
        return found or "utf-8", has_quotes
    sample = bytes(odd_lines[:SAMPLE_BYTES])
    in_runs = sum(map(len, RUNS.findall(sample)))
    if 2 * in_runs < sum(byte > 127 for byte in sample):
        return "cp1252", has_quotes
    best = charset_normalizer.from_bytes(sample, cp_isolation=list(ENCODINGS)).best()
    return "cp1252" if best is None else best.encoding, has_quotes


def _sample(source: Path, encoding: str) -> str:
    """Return the first lines of a file."""
    with source.open("rb") as file:
        content = file.read(SAMPLE_BYTES)
        is_whole = not file.read(1)
    text = content.decode(encoding, "replace").removeprefix("\ufeff")
    return text if is_whole or "\n" not in text else text[: text.rindex("\n") + 1]


def _rows(sample: str, delimiter: str) -> tuple[Rows, list[int]]:
    """Return the rows that are not empty, and the number of the line that ends each of them."""
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
    rows, lines = Rows(), list[int]()
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(reader.line_num)
                rows.append(row)
            if len(rows) > SAMPLE_ROWS:
                break
    except csv.Error:  # a cell that never ends, which _check_quotes names
        pass
    return rows, lines


def _delimiter(sample: str) -> str:
    """Return what separates the cells: what gives the most rows as many cells as the header.

    Of equals it is the one with the fewest lines above the header, as a header without it looks like a title; then the
    one that gives the most numbers; then the first of ``DELIMITERS``. ``csv.Sniffer`` takes time that grows with the
    square of the quotes.
    """

    def agreement(mark: str) -> tuple[float, int, float]:
        rows, _ = _rows(sample, mark)
        titles = title_rows(rows)
        rows = rows[titles:]
        width = len(rows[0]) if rows else 0
        if width < 2 or len(rows) < 2:
            return -1.0, 0, 0.0
        same = statistics.fmean(len(row) in (width, width + 1) for row in rows[1:])
        numbers = statistics.fmean(NUMBER.fullmatch(cell.strip()) is not None for row in rows[1:] for cell in row)
        return same, -titles, numbers

    found = {mark: agreement(mark) for mark in DELIMITERS}
    best = max(found, key=lambda mark: found[mark])
    return best if found[best][0] >= 0 else ","  # a file of one column, or of one line


def header_names(rows: Rows) -> list[str]:
    """Return the names of the columns. Rows that all have one cell more begin with row names, or end with a separator.

    Raises:
        ValueError: They have one cell more for another reason.
    """
    names, below = [name.strip() for name in rows[0]], [[cell.strip() for cell in row] for row in rows[1:]]
    if not below or any(len(row) != len(names) + 1 for row in below):
        return names
    firsts, seconds, lasts = ([row[index] for row in below] for index in (0, 1, -1))
    if not any(lasts):
        return [*names, ""]
    has_ids = any(pattern.fullmatch(name) for pattern in (ID_NAMES, ROW_NAMES) for name in (names[0], names[0].lower()))
    named = [firsts, seconds] if has_ids else [firsts]  # if rows have names, the ids are in the second column
    if not all(firsts) or not all(lasts) or any(len(set(cells)) < len(below) for cells in named):
        wrong = f"row 1 has {len(names) + 1} cells, the header {len(names)}"
        raise ValueError(f"{wrong}: name each column, and put quotes around cells with a separator in them")
    return ["", *names]


def _decimal(rows: Rows, delimiter: str) -> str:
    """Return the decimal mark that most numbers have.

    Numbers such as 1,234 say nothing: without others, the mark is the point, or between semicolons the comma. In a
    column of such numbers, a few others may be slips, unless they have both marks.
    """
    columns = [[cell.strip(AROUND_NUMBERS) for cell in cells] for cells in itertools.zip_longest(*rows, fillvalue="")]
    marks = Counter[str]()
    for cells in columns:
        unclear = [cell for cell in cells if THOUSANDS.fullmatch(cell)]
        points = [cell for cell in cells if WITH_POINT.fullmatch(cell) and not THOUSANDS.fullmatch(cell)]
        commas = [cell for cell in cells if WITH_COMMA.fullmatch(cell) and not THOUSANDS.fullmatch(cell)]
        clear = [*points, *commas]
        if len(clear) > len(unclear) * ODD_SHARE or any("," in cell and "." in cell for cell in clear):
            marks.update({".": len(points), ",": len(commas)})
    if not marks.total() and delimiter == ";":
        return "," if any(WITH_COMMA.fullmatch(cell) for cells in columns for cell in cells) else "."
    return "," if marks[","] > marks["."] else "."


def _columns(
    source: Path, header: _Header, reading: Reading, has_quotes: bool, first: Rows, *, as_texts: bool
) -> list[RawColumn]:
    """Read the columns. What the ``first`` rows hold decides which are read as numbers at once."""
    try:
        check_names(header.names)
    except InvalidFileError as error:
        raise InvalidFileError(f"{error}. If the first row is data, read the file with header=none") from None
    fractions = None if as_texts else _fractions(first, header.names, reading)
    columns = _read(source, header, reading, has_quotes, fractions).columns
    pa.default_memory_pool().release_unused()  # what the parser took
    if as_texts:
        columns = [trimmed(cells, _nulls(reading)) for cells in _without_last_lines(columns)]
    else:
        pieces = (columns.pop(0) for _ in header.names)  # each is freed as soon as it is numbers
        with ThreadPoolExecutor(pa.cpu_count()) as threads:
            columns = list(threads.map(_fitted, pieces, itertools.repeat(reading)))
    return [RawColumn(name, str(cells.type), cells) for name, cells in zip(header.names, columns, strict=True)]


def _read(source: Path, header: _Header, reading: Reading, has_quotes: bool, fractions: list[str] | None) -> pa.Table:
    """Read the rows, with ``fractions`` as numbers. A column of them with another cell is read again as texts.

    Without ``fractions``, all cells stay texts, and empty lines among those of one column are rows.
    """
    for _ in range(MAX_ODD_COLUMNS):
        try:
            return _table(source, header, reading, has_quotes, fractions)
        except pa.ArrowInvalid as error:
            odd = ODD_COLUMN.match(str(error))
            if odd is None:  # a row is wrong, which pyarrow names only without threads
                none: list[str] | None = None if fractions is None else []
                return _table(source, header, reading, has_quotes, none, use_threads=False)
            assert fractions is not None, "a text needs no conversion to a number"
            odd_name = _unique(header.names)[int(odd[1])]
            fractions = [name for name in fractions if name != odd_name]
    return _table(source, header, reading, has_quotes, [])


def _unique(names: Sequence[str]) -> list[str]:
    """Return names for pyarrow, which looks columns up by them; columns without a name have none."""
    return [name or f"\x00{index}" for index, name in enumerate(names)]


def _table(
    source: Path,
    header: _Header,
    reading: Reading,
    has_quotes: bool,
    fractions: list[str] | None,
    *,
    use_threads: bool = True,
) -> pa.Table:
    names, as_texts = _unique(header.names), fractions is None
    types = {name: pa.float64() if name in (fractions or ()) else pa.string() for name in names}
    try:
        return pyarrow.csv.read_csv(
            source,
            read_options=pyarrow.csv.ReadOptions(
                use_threads=use_threads,
                block_size=BLOCK_BYTES,
                column_names=names,
                skip_rows=header.lines,
                encoding=reading.encoding,
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=reading.delimiter,
                newlines_in_values=has_quotes,
                ignore_empty_lines=not as_texts or len(names) > 1,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                null_values=("",) if as_texts else _nulls(reading),
                strings_can_be_null=True,
                quoted_strings_can_be_null=not as_texts,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):  # a header and nothing else
            return pa.table({name: pa.array([], pa.string()) for name in names})
        raise


def _without_last_lines(columns: list[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """Return the only column of a file without the empty lines at its end, and other columns as they are."""
    if len(columns) > 1:
        return columns
    (cells,) = columns
    empty = pc.index(pc.is_valid(cells[::-1]), True).as_py()
    return [cells[: len(cells) - empty if empty >= 0 else 0]]


def _fractions(rows: Rows, names: list[str], reading: Reading) -> list[str]:
    """Return the names of columns whose cells in some rows are numbers that are not all whole."""
    whole = [row for row in rows if len(row) == len(names)]
    columns = {name: pa.array([row[index] for row in whole], pa.string()) for index, name in enumerate(_unique(names))}
    return [name for name, texts in columns.items() if _fitted(texts, reading).type == pa.float64()]


def _nulls(reading: Reading) -> tuple[str, ...]:
    return NULLS if reading.na_values is None else ("", *reading.na_values)


def _fitted(texts: pa.Array, reading: Reading) -> pa.Array:
    """Return texts as numbers if all of them are, also without the spaces around them."""
    if not pa.types.is_string(texts.type):
        return texts
    for cells in (texts[:SAMPLE_ROWS], texts):  # most columns of texts have one among the first cells
        numbers = _as_numbers(cells, reading)
        if numbers is None:
            numbers = _as_numbers(trimmed(cells, _nulls(reading)), reading)
        if numbers is None:
            return texts
    return numbers


def _as_numbers(texts: pa.Array, reading: Reading) -> pa.Array | None:
    """Return texts as whole numbers, or else as numbers; None if a cell is another text, or begins with a 0."""
    if _is_padded(texts):
        return None
    for wanted in (pa.int64(), pa.float64()) if reading.decimal == "." else (pa.int64(),):
        try:
            return texts.cast(wanted)
        except pa.ArrowInvalid:
            continue
    return None


def _is_padded(texts: pa.Array) -> bool:
    """Return whether one of the texts begins with a zero that a number would lose."""
    zeros = texts.filter(pc.starts_with(texts, "0"))
    padded = pc.and_not(pc.greater(pc.binary_length(zeros), 1), pc.match_substring(zeros, "."))
    return bool(pc.any(padded).as_py())


def _has_lines(column: RawColumn) -> bool:
    is_text = pa.types.is_string(column.values.type)
    return is_text and bool(pc.any(pc.match_substring(column.values, "\n")).as_py())


def _check_quotes(source: Path, reading: Reading, width: int) -> None:
    """Refuse a quote that is opened and not closed where the cell ends.

    Such a quote takes in what follows, down to the next one. The row that it makes has a wrong number of cells, or text
    behind a closing quote, or never ends.
    """
    csv.field_size_limit(MAX_CELL)
    start = 1
    with source.open(encoding=reading.encoding, errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=reading.delimiter or ",", strict=True)
        try:
            for row in reader:
                if 1 < start < reader.line_num and len(row) != width:
                    break
                start = reader.line_num + 1
            else:
                return
        except UnicodeError:
            return
        except csv.Error:
            pass
    raise InvalidFileError(f"line {start} of the file opens a quote that is not closed; close or remove it")
