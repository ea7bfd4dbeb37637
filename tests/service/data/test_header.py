# Whether the first row of a table has names or data is found out; in doubt it is taken as names, and that is said.
from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from service.data.columns import TABLE_FILE
from service.data.facts import Reading, Unused
from service.data.header import find_header
from service.data.read_csv import read_columns
from service.errors import InvalidFileError
from tests.service.data import tables
from tests.service.data.tables import NUMBERS, PLAIN, ROWS, TABLES, excel, written
from tests.service.data.test_reading import read

DRAW = random.Random(3)


def drawn(*kinds: Any) -> list[list[str]]:
    """Rows with a cell of each kind: a list to choose from, or a function of the row's number."""
    return [[str(kind(row) if callable(kind) else DRAW.choice(kind)) for kind in kinds] for row in range(ROWS)]


def fraction(_: int) -> float:
    return round(DRAW.uniform(0, 10), 2)


def words(row: int) -> str:
    return " ".join(DRAW.choice(["go", "until", "point", "crazy"]) for _ in range(12)) + f" {row}"


KINDS, CITIES = ["setosa", "virginica", "versicolor"], ["Rome", "Oslo", "Bonn"]
DAYS = [f"2024-01-{row % 28 + 1:02d}" for row in range(ROWS)]
SURE: dict[str, tuple[list[str], list[list[str]]]] = {
    "numbers and a word": (["size", "width", "kind"], drawn(fraction, fraction, KINDS)),
    "numbers": (["a", "b", "c"], drawn(fraction, fraction, fraction)),
    "one-hot": (["a", "b", "c", "y"], drawn([0, 1], [0, 1], [0, 1], CITIES)),
    "true and false": (["ok", "n"], drawn(["True", "False"], range(90))),
    "dates": (["day", "kind", "value"], drawn(DAYS, KINDS, fraction)),
    "German dates and amounts": (["Tag", "Betrag"], drawn(["01.02.2024", "14.03.2024"], ["1.200,50 €", "7,20 €"])),
    "a target y of yes and no": (["x", "y"], drawn(fraction, ["yes", "no", "Y"])),
    "a target t of true and false": (["f", "t"], drawn(fraction, ["True", "False"])),
    "a zero": (["x", "y"], [["0.0", "Rome"], *drawn(fraction, CITIES)]),
    "words only": (["city", "level"], drawn(CITIES, ["low", "high"])),
    "a word and free text": (["label", "text"], drawn(["ham", "spam"], words)),
    "codes": (["id", "value", "kind"], drawn(lambda row: f"C-{row:03d}", fraction, KINDS)),
    "zip codes": (["zip", "kind"], drawn(lambda row: f"0{row + 1000}", KINDS)),
    "years as names": (["country", "2019", "2020"], drawn(lambda row: f"land {row}", fraction, fraction)),
    "names of pandas": (["0", "1", "2", "3"], drawn(fraction, fraction, fraction, fraction)),
}


@pytest.mark.parametrize("case", SURE)
def test_names_are_told_from_data(case: str) -> None:
    names, rows = SURE[case]
    assert find_header([names, *rows], Reading(decimal=",")) == (True, ())
    without = find_header(rows, Reading(decimal=","))
    assert not without.exists
    assert "looks like data" in without.notes[0]
    assert (
        f"column_1 to column_{len(names)}: if it has the names, upload the file again with header=first"
        in without.notes[0]
    )


@pytest.mark.parametrize(
    ("first", "rows"),
    [
        (["101", "305", "207", "label"], drawn(fraction, fraction, fraction, CITIES)),
        (["400.5", "402.5", "404.5", "406.5"], drawn(fraction, fraction, fraction, fraction)),
        (["0", "1"], drawn(fraction, fraction)),
        (["n/k", "2.5", "setosa"], drawn(fraction, fraction, KINDS)),
        (["Paris", "2.5"], drawn(CITIES, fraction)),
        (["", "0"], drawn(lambda row: row, fraction)),
        (["spam", "comment"], drawn(["ham", "spam"], words)),
    ],
    ids=[
        "sensors",
        "wavelengths",
        "two numbers",
        "an odd cell",
        "a rare word",
        "a series of pandas",
        "a name that is a value",
    ],
)
def test_in_doubt_the_first_row_has_names_and_it_is_said(first: list[str], rows: list[list[str]]) -> None:
    found = find_header([first, *rows], Reading())
    assert found.exists
    assert f"the first row is taken as names ({first[0]!r}" in found.notes[0]
    assert found.notes[0].endswith("if it is data, upload the file again with header=none")


@pytest.mark.parametrize(
    "case", [case for case in TABLES if case.filename != "table.parquet"], ids=lambda case: case.name
)
def test_no_table_with_a_header_is_taken_for_one_without(tmp_path: Path, case: tables.Table) -> None:
    facts = read(case.content, tmp_path, case.filename)
    assert facts.reading.header is None
    assert not any("the first row" in note for note in facts.warnings)


IRIS = drawn(fraction, fraction, KINDS)


def as_csv(rows: Sequence[Sequence[Any]]) -> bytes:
    return written(rows[0], list(zip(*rows[1:], strict=True))).encode()


def numbers_of(rows: Sequence[Sequence[str]]) -> list[list[Any]]:
    return [[float(first), float(second), kind] for first, second, kind in rows]


@pytest.mark.parametrize(
    ("content", "filename"),
    [
        (as_csv(IRIS), "table.csv"),
        (as_csv(IRIS).decode().encode("utf-8-sig"), "table.csv"),
        (as_csv(IRIS).decode().encode("utf-16"), "table.csv"),
        (excel(numbers_of(IRIS)), "table.xlsx"),
    ],
    ids=["CSV", "UTF-8 with a mark", "UTF-16", "Excel"],
)
def test_no_row_of_a_file_without_a_header_is_lost(tmp_path: Path, content: bytes, filename: str) -> None:
    facts = read(content, tmp_path, filename)
    assert (facts.rows, facts.reading.header) == (ROWS, "none")
    assert [column.name for column in facts.columns] == ["column_1", "column_2", "column_3"]
    assert [column.kind for column in facts.columns] == ["number", "number", "category"]
    assert "looks like data" in facts.warnings[0]


def test_the_user_decides_whether_there_is_a_header(tmp_path: Path) -> None:
    names = read(as_csv(IRIS), tmp_path / "names", header="first")
    assert (names.rows, names.warnings, names.columns[0].name) == (ROWS - 1, (), IRIS[0][0])
    none = read(PLAIN.encode(), tmp_path / "none", header="none")
    assert (none.rows, none.warnings, none.columns[0].name) == (ROWS + 1, (), "column_1")
    assert none.columns[0].missing == 1  # the name


def test_two_columns_of_the_same_name_point_to_the_option(tmp_path: Path) -> None:
    content = written(["x", "x", "kind"], [NUMBERS, NUMBERS, KINDS * (ROWS // 3)]).encode()
    with pytest.raises(InvalidFileError, match=r"of another column.*read the file with header=none"):
        read(content, tmp_path)


def test_the_names_again_among_the_rows_are_named(tmp_path: Path) -> None:
    facts = read(f"{PLAIN}{PLAIN}{PLAIN}".encode(), tmp_path)
    assert facts.warnings == (f"row {ROWS + 1} and 1 more repeats the names of the columns: remove it from the file",)
    texts = written(["city", "level"], [CITIES * (ROWS // 3), ["low", "high"] * (ROWS // 2)])
    words_only = read(f"{texts}{texts}".encode(), tmp_path / "words")
    assert words_only.warnings == (f"row {ROWS + 1} repeats the names of the columns: remove it from the file",)


def test_new_rows_are_read_with_a_header_unless_told_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_bytes(as_csv(IRIS))
    columns, reading, notes = read_columns(file, 1 << 20, Reading(header="first"), as_texts=True)
    assert ([column.name for column in columns], reading.header, notes) == (IRIS[0], "first", ())


def lines(header: str, row: Callable[[int], str]) -> bytes:
    return "\n".join([header, *map(row, range(ROWS)), ""]).encode()


SHIFTED: dict[str, bytes] = {
    "decimal commas": lines("temp,label", lambda row: f"{20 + row % 9},{row % 10},ok"),
    "decimal commas after ids": lines("id,temp,label", lambda row: f"{row},{20 + row % 9},{row % 10},ok"),
    "decimal commas after numbers": lines("Nr,temp,label", lambda row: f"{row + 1},{20 + row % 9},{row % 10},ok"),
    "remarks without a name": lines("age,id,label", lambda row: f"{20 + row % 40},{row},{row % 2},late"),
    "remarks without a name in some rows": lines("name,age", lambda row: f"n{row},{row % 9},{'x' if row % 3 else ''}"),
    "a row name that is empty": lines("a,b", lambda row: f"{row or ''},{row * 2},{row * 3}"),
    "quotes within quotes": lines("t,b,y", lambda row: f'"he said \\"hi, {row}\\" ok",{row},{row % 2}'),
}  # fmt: skip


@pytest.mark.parametrize("case", SHIFTED)
def test_no_row_is_moved_under_the_names_of_others(tmp_path: Path, case: str) -> None:
    with pytest.raises(InvalidFileError, match=r"^row 1 has [34] cells, the header [23]: name each column"):
        read(SHIFTED[case], tmp_path)


@pytest.mark.parametrize("header", ["size,label", "id,label"])
def test_row_names_are_said(tmp_path: Path, header: str) -> None:
    facts = read(lines(header, lambda row: f"r{row},{100 + row},{row % 2}"), tmp_path)
    assert [column.name for column in facts.columns] == ["Unnamed: 0", *header.split(",")]
    (note,) = facts.warnings
    assert "one cell more than the header, so the first is taken as row names, such as 'r0': name each" in note


def test_separators_at_the_end_of_rows_need_no_note(tmp_path: Path) -> None:
    facts = read(lines("size,label", lambda row: f"{row % 7},{row % 2},"), tmp_path)
    assert ([column.name for column in facts.columns], facts.warnings) == (["size", "label"], ())


@pytest.mark.parametrize("others", [["Unnamed: 0"], ["Unnamed: 0.1", "Unnamed: 0"]])
def test_a_first_column_without_a_name_keeps_its_values_next_to_any_other(tmp_path: Path, others: list[str]) -> None:
    header = ["", *others, "a"]
    facts = read(lines(",".join(header), lambda row: ",".join(f"{row * 10 + n}" for n in range(len(header)))), tmp_path)
    stored = pyarrow.parquet.read_table(tmp_path / "kept" / TABLE_FILE)
    name = f"Unnamed: 0.{len(others)}"
    assert [column.name for column in facts.columns] == stored.column_names == [name, *others, "a"]
    assert stored.column(name).to_pylist() == [row * 10 for row in range(ROWS)]
    assert facts.columns[0].unused == Unused.INDEX
