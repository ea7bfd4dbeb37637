# Tables as people have them are read rightly, a job can correct what is not, and what cannot be read is named.
from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from service.data.columns import TABLE_FILE, retyped, values_of
from service.data.facts import ColumnRole, DatasetFacts, Reading, column_uses, dataset_info
from service.data.sources import Table, stored_source
from service.data.upload import FORMATS, Upload, format_of
from service.errors import InvalidFileError, InvalidSpecError
from service.spec.data import ColumnChoice, DatasetSpec
from service.spec.tasks import Task
from tests.service.data import tables
from tests.service.data.tables import (
    AMOUNTS,
    CITIES,
    LABELS,
    NUMBERS,
    PLAIN,
    ROWS,
    TABLES,
    ZIPS,
    excel,
    replaced,
    written,
)

LIMIT = 1 << 22


def read(content: bytes, folder: Path, filename: str = "table.csv", **reading: Any) -> DatasetFacts:
    """Read a file as an upload does, and keep its dataset folder."""
    fmt = format_of(filename)
    assert fmt is not None
    with Upload(fmt, LIMIT, Reading(**reading)) as upload:
        upload.write(content)
        facts, kept = upload.unpack()
        folder.mkdir(exist_ok=True)
        kept.rename(folder / "kept")
    return facts


def uses_of(facts: DatasetFacts, **spec: Any) -> dict[str, Any]:
    return {use.name: use for use in column_uses(facts, DatasetSpec(**spec))}


@pytest.mark.parametrize("case", TABLES, ids=lambda case: case.name)
def test_a_table_is_read_rightly(tmp_path: Path, case: tables.Table) -> None:
    facts = read(case.content, tmp_path, case.filename)
    assert facts.rows == ROWS
    uses = uses_of(facts)
    stored = pyarrow.parquet.read_table(tmp_path / "kept" / TABLE_FILE)
    for name, right in case.columns.items():
        column, use = facts.target(name), uses[name]
        assert column is not None
        assert (use.kind, use.missing if use.role is ColumnRole.FEATURE else 0) == (right.kind, right.missing)
        assert (use.role is ColumnRole.LEFT_OUT) == (right.kind in ("id", "index", "constant"))
        assert right.warning in " ".join(use.warnings)
        assert bool(use.warnings) >= bool(right.warning)
        first = values_of(column, stored.column(name).combine_chunks())[0].as_py()
        assert first == right.first or right.first is None
    assert len(uses) <= len(case.columns) + 1


@pytest.mark.parametrize("case", TABLES, ids=lambda case: case.name)
def test_a_job_gets_as_many_finite_features_as_its_plan_says(tmp_path: Path, case: tables.Table) -> None:
    facts = read(case.content, tmp_path, case.filename)
    facts.save(tmp_path / "kept")
    spec = DatasetSpec(id="ds-1")
    if not sum(use.features for use in column_uses(facts, spec)):
        pytest.skip("nothing is left to train on")
    source = stored_source(tmp_path / "kept", spec, Task.AUTOENCODING)
    assert isinstance(source, Table)
    encoder = source.encoder(np.arange(ROWS))
    x = np.asarray(encoder.transform(np.arange(ROWS)), dtype=np.float64)
    assert x.shape == (ROWS, dataset_info(facts, spec).features)
    assert np.isfinite(x).all()


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e+39"])
def test_a_number_that_is_not_finite_is_refused_with_what_makes_it_missing(tmp_path: Path, cell: str) -> None:
    content = written(["x", "y"], [replaced(NUMBERS, {7: cell}), NUMBERS]).encode()
    with pytest.raises(InvalidFileError, match=re.escape(f"upload the file again with na_values={cell} if")):
        read(content, tmp_path)
    column = read(content, tmp_path, na_values=(cell,)).target("x")
    assert column is not None
    assert (column.kind, column.missing) == ("number", 1)


LABELS_WITH_NUMBERS: dict[str, Sequence[str]] = {
    "ordinals": ["1st", "2nd", "3rd", "3rd", "3rd"],
    "many ordinals": [f"{n}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th') }" for n in range(21, 61)],
    "halves": [f"{2000 + n // 2}H{n % 2 + 1}" for n in range(60)],
    "two halves": ["2023H1", "2023H2"],
    "a few sizes": ["500 ml", "1 l", "2 l", "2 l"],
}


@pytest.mark.parametrize("case", LABELS_WITH_NUMBERS)
def test_names_that_begin_with_numbers_get_no_advice_on_units(tmp_path: Path, case: str) -> None:
    names = LABELS_WITH_NUMBERS[case]
    cells = [names[row * 7 % len(names)] for row in range(ROWS)]
    column = read(written(["x", "y"], [cells, NUMBERS]).encode(), tmp_path).target("x")
    assert column is not None
    assert column.warnings == ()
    assert not column.is_numeric


def test_the_last_row_is_named_if_it_adds_up_the_others(tmp_path: Path) -> None:
    facts = read(f"{PLAIN}99.5,Total,yes\n".encode(), tmp_path)
    assert facts.warnings == ("row 61 has 'Total' in column 'city': remove it from the file if it adds up the others",)
    without_label = read(f"{PLAIN}99.5,Total,\n".encode(), tmp_path / "more")
    with pytest.raises(InvalidSpecError, match="row 61 has 'Total'"):
        dataset_info(without_label, DatasetSpec(id="ds-1", target="label"))


QUOTES = written(["x", "note", "label"], [NUMBERS, ["fine"] * ROWS, LABELS]).splitlines(keepends=True)


def with_line(number: int, line: str) -> bytes:
    return "".join([*QUOTES[: number - 1], line, *QUOTES[number:]]).encode()


REFUSED = {
    "quote that is never closed": (with_line(30, '1.5,"fine,yes\n'), "line 30 of the file opens a quote"),
    "quote closed by a later one": (
        with_line(30, '1.5,"fine,yes\n')[:-40] + b'2.5,"a, b",yes\n' * 3,
        "line 30 of the file opens a quote",
    ),
    "quote that swallows rows of the right length": (
        with_line(30, '1.5,x,"yes\n') + b'2.5,fine,"no"\n',
        "line 30 of the file opens a quote",
    ),
    "short row": (with_line(30, "1.5,fine\n"), "Row #30: Expected 3 columns, got 2"),
    "damaged gzip": (gzip.compress(PLAIN.encode())[:-20], "cannot be read as gzip"),
    "gzip bomb": (gzip.compress(bytes(LIMIT + 1)), f"over {LIMIT} bytes unpacked"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_by_its_line(tmp_path: Path, case: str) -> None:
    content, expected = REFUSED[case]
    with pytest.raises(InvalidFileError) as caught:
        read(content, tmp_path)
    assert expected in str(caught.value)


def test_a_row_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.data.read_csv.BLOCK_BYTES", 1000)
    with pytest.raises(InvalidFileError, match="CSV: a row has over 1000 bytes, the most that is allowed"):
        read(f"x,label\n1,{'a' * 9000}\n".encode() * 20, tmp_path)


def test_a_wrong_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="Row #2: CSV conversion error to string: invalid UTF8"):
        read(("a,b\n" + "é,1\n" * 20).encode("cp1252"), tmp_path, encoding="utf-8")


def test_long_words_take_no_longer_than_others_to_find_one_of_another_encoding(tmp_path: Path) -> None:
    content = written(["x", "label"], [["A" * 200_000, *["René"] * (ROWS - 1)], LABELS]).encode("cp1252")
    start = time.process_time()
    facts = read(content, tmp_path)
    assert time.process_time() - start < 20  # with the square of the letters, it would be minutes
    assert "words such as 'René'" in facts.warnings[0]


def column_x(values: Sequence[Any]) -> bytes:
    return written(["x", "label"], [values, LABELS]).encode()


NAMIBIA = column_x(replaced(CITIES, {0: "NA"}))
POLISH = column_x(["Łódź", "Köln"] * 30).decode().encode("cp1250")
CORRECTED: dict[str, tuple[bytes, dict[str, Any], tuple[str, int, Any]]] = {
    "decimal": (column_x([f"{x:,.0f}" for x in AMOUNTS]), {"decimal": ","}, ("number", 0, 1.234)),
    "number for missing": (
        column_x([x if x > 0 else -999 for x in NUMBERS]),
        {"na_values": ("-999",)},
        ("number", sum(x <= 0 for x in NUMBERS), None),
    ),
    "NA is a value": (NAMIBIA, {"na_values": ()}, ("category", 0, "NA")),
    "delimiter": (NAMIBIA.replace(b",", b"^"), {"delimiter": "^"}, ("category", 1, None)),
    "encoding": (POLISH, {"encoding": "cp1250"}, ("category", 0, "Łódź")),
}  # fmt: skip


@pytest.mark.parametrize("case", CORRECTED)
def test_how_a_file_is_read_can_be_corrected(tmp_path: Path, case: str) -> None:
    content, reading, right = CORRECTED[case]
    facts = read(content, tmp_path, **reading)
    column = facts.target("x")
    assert column is not None
    stored = pyarrow.parquet.read_table(tmp_path / "kept" / TABLE_FILE).column("x").combine_chunks()
    assert (column.kind, column.missing, values_of(column, stored)[0].as_py()) == right


THREE = [f"{1.001 + row * 0.013:.3f}" for row in range(ROWS)]
WHOLE = [f"{1001 + row * 13:,}" for row in range(ROWS)]
SHARES = [f"{0.101 + row * 0.001:.3f}" for row in range(ROWS)]


def swapped(texts: Sequence[str]) -> list[str]:
    return [text.translate(str.maketrans(",.", ".,")) for text in texts]


LONE: dict[str, tuple[Sequence[str], str, str, float, str]] = {
    "comma among points": (THREE, "7,5", ",", 1.001, "decimal=, if it is 1001"),
    "comma among points of tabs": (THREE, "7,5", "\t", 1.001, "decimal=, if it is 1001"),
    "comma among shares": (SHARES, "7,5", ",", 0.101, ""),
    "point among commas": (swapped(THREE), "7.5", ";", 1.001, "decimal=. if it is 1001"),
    "comma among thousands": (WHOLE, "7,5", ",", 1001, "decimal=, if it is 1.001"),
    "point among German thousands": (swapped(WHOLE), "7.5", ";", 1001, "decimal=. if it is 1.001"),
}


LONE_ALONE = [case for case in LONE if case != "point among German thousands"]  # which could be decimal points


@pytest.mark.parametrize(("case", "has_others"), [*((case, True) for case in LONE), *((c, False) for c in LONE_ALONE)])
def test_one_cell_does_not_change_what_the_marks_of_a_column_mean(tmp_path: Path, case: str, has_others: bool) -> None:
    texts, lone, sep, first, note = LONE[case]
    others = [f"{x:.1f}" for x in AMOUNTS] if has_others else LABELS
    others = swapped(others) if sep == ";" else others
    facts = read(written(["x", "other"], [replaced(texts, {50: lone}), others], sep).encode(), tmp_path)
    column = facts.target("x")
    assert column is not None
    stored = pyarrow.parquet.read_table(tmp_path / "kept" / TABLE_FILE).column("x").combine_chunks()
    assert (column.kind, values_of(column, stored)[0].as_py()) == ("number", first)
    found = " ".join(column.warnings)
    assert f"the first is {lone!r} in row 51" in found
    assert (note in found) if note else "is read as" not in found


SHOWN: dict[str, tuple[Sequence[str], float, float, str]] = {
    "thousands of thousands": (replaced(swapped(WHOLE), {50: "1.234.567"}), 1001, 1_234_567, ""),
    "thousands with a decimal comma": (replaced(swapped(WHOLE), {50: "1.234,5"}), 1001, 1234.5, ""),
    "English thousands of thousands": (replaced(WHOLE, {50: "1,234,567"}), 1001, 1_234_567, ""),
    "English thousands with a decimal point": (replaced(WHOLE, {50: "1,234.5"}), 1001, 1234.5, ""),
    "commas among whole numbers": (["5", *map(str, range(100, 159))][:50] + ["7,5"] * 10, 5, 7.5, ""),
    "one comma among whole numbers": (replaced([str(100 + row) for row in range(ROWS)], {50: "7,5"}), 100, 7.5, ""),
    "one fraction among thousands": (replaced(WHOLE, {50: "7.5"}), 1001, 7.5, "decimal=, if it is 1.001"),
    "one in three with a comma": (
        [text if row % 3 else "7,5" for row, text in enumerate(swapped(WHOLE), 1)],
        1001,
        7.5,
        "decimal=. if it is 1.001",
    ),
}


@pytest.mark.parametrize("case", SHOWN)
def test_what_the_cells_of_a_column_show_is_read(tmp_path: Path, case: str) -> None:
    texts, first, at_50, note = SHOWN[case]
    facts = read(written(["x", "other"], [texts, [f"{x:.1f}" for x in AMOUNTS]]).encode(), tmp_path)
    column = facts.target("x")
    assert column is not None
    stored = pyarrow.parquet.read_table(tmp_path / "kept" / TABLE_FILE).column("x").combine_chunks()
    values = values_of(column, stored).to_pylist()
    assert (column.kind, values[0], values[50]) == ("number", first, at_50)
    found = " ".join(column.warnings)
    assert (note in found) if note else "is read as" not in found


@pytest.mark.parametrize("decimal", [None, ".", ","])
@pytest.mark.parametrize("text", ["7,5", "1.234,5", "n/k"])
@pytest.mark.parametrize("x", [1.013, 0.125, 1013, 1e-7])
def test_a_text_does_not_change_the_numbers_of_an_excel_column(
    tmp_path: Path, x: float, text: str, decimal: str | None
) -> None:
    rows = [[text if row == 50 else x + row, LABELS[row]] for row in range(ROWS)]
    facts = read(excel([["x", "label"], *rows]), tmp_path, "table.xlsx", decimal=decimal)
    column = facts.target("x")
    assert column is not None
    stored = pyarrow.parquet.read_table(tmp_path / "kept" / TABLE_FILE).column("x").combine_chunks()
    values = values_of(column, stored).to_pylist()
    right = {"7,5": 7.5, "1.234,5": 1234.5, "n/k": None}[text]
    assert values == [right if row == 50 else pytest.approx(x + row) for row in range(ROWS)]
    assert "is read as" not in " ".join((*facts.warnings, *column.warnings))


def test_what_the_texts_of_an_excel_column_mean_is_said_and_codes_are_kept(tmp_path: Path) -> None:
    rows = [["1,234", zip_, "5 g"] if row == 50 else [900.5 + row, 20_000 + row, row] for row, zip_ in enumerate(ZIPS)]
    facts = read(excel([["x", "zip", "mass"], *rows]), tmp_path, "table.xlsx")
    assert facts.warnings == (
        "column 'x': '1,234' is read as 1234: upload the file again with decimal=, if it is 1.234",
    )
    stored = pyarrow.parquet.read_table(tmp_path / "kept" / TABLE_FILE).to_pylist()[50]
    assert stored == {"x": "1234", "zip": ZIPS[50], "mass": "5 g"}


MARKED_AS = {
    "decimal comma": ("-999,0", tables.german),
    "unit": ("-999 EUR", lambda x: f"{x} EUR"),
    "thousands": ("-9.999,00", lambda x: tables.german(1000 * x)),
    "sign behind": ("999-", lambda x: f"{x}-" if x > 0 else str(-x)),
    "odd cell": ("-999.0", lambda x: "soon" if x == NUMBERS[9] else x),
}


@pytest.mark.parametrize("case", MARKED_AS)
def test_a_number_that_stands_for_no_value_does_so_however_the_column_is_written(tmp_path: Path, case: str) -> None:
    mark, written_as = MARKED_AS[case]
    marks = ("-999", "-9999", "n/a")
    cells = [mark if row % 5 == 0 else "n/a" if row == 7 else written_as(x) for row, x in enumerate(NUMBERS)]
    read(written(["x", "label"], [cells, LABELS], ";").encode(), tmp_path, na_values=marks).save(tmp_path / "kept")
    choices: tuple[dict[str, ColumnChoice], ...] = ({}, {"x": "number"})
    for columns in choices:
        facts = retyped(DatasetFacts.load(tmp_path / "kept"), columns, tmp_path / "kept")
        column = facts.target("x")
        assert column is not None
        assert (column.kind, column.missing) == ("number", 13 + (case == "odd cell"))
        assert column.low is not None
        assert column.low > -8000
        said = ("not numbers, so read as missing: 1 of 60 cells, the first is 'soon' in row 10",)
        assert column.warnings == (said if case == "odd cell" else ())
        source = stored_source(tmp_path / "kept", DatasetSpec(id="ds-1", columns=columns), Task.AUTOENCODING)
        assert isinstance(source, Table)
        assert np.isnan(source.column("x")[::5]).all()


PLACES = [("Paris, France", "Rome, Italy", "Bern, Switzerland")[row % 3] for row in range(ROWS)]
STREETS = [f"Road {row}, {8000 + row} Bern, CH" for row in range(ROWS)]
SHIRTS = [f"Shirt, {('red', 'blue')[row % 2]}, XL, cotton" for row in range(ROWS)]
REVIEWS = [f"I liked it, number {row}" for row in range(ROWS)]
GERMAN_NUMBERS = [f"{50 + row},{row % 9}" for row in range(ROWS)]
SEPARATED: dict[str, tuple[str, list[str], list[Sequence[Any]]]] = {
    "a place of two words": ("\t", ["place", "value"], [PLACES, NUMBERS]),
    "a place between semicolons": (";", ["place", "value"], [PLACES, range(ROWS)]),
    "a place between bars": ("|", ["place", "value"], [PLACES, NUMBERS]),
    "an address of as many parts as columns": ("\t", ["address", "price", "rooms"], [STREETS, NUMBERS, range(ROWS)]),
    "a product of more parts than columns": (";", ["product", "price", "class"], [SHIRTS, range(ROWS), LABELS]),
    "a review": ("\t", ["review", "label"], [REVIEWS, LABELS]),
    "a comma in a name": ("\t", ["review, text", "label"], [REVIEWS, LABELS]),
    "a unit in a name": (";", ["Gewicht, kg", "Klasse"], [GERMAN_NUMBERS, LABELS]),
    "units in all names": (";", ["Gewicht, kg", "Höhe, cm"], [GERMAN_NUMBERS, GERMAN_NUMBERS[::-1]]),
    "a semicolon in a text": (",", ["place", "value"], [[f"a; b{row % 3}" for row in range(ROWS)], NUMBERS]),
    "a bar in a text and a name": (",", ["id", "a|b", "c"], [range(ROWS), [f"{city}|x" for city in CITIES], LABELS]),
    "a bar in a text": (",", ["genres", "year", "label"], [["Action|Drama"] * ROWS, range(1990, 2050), LABELS]),
}


def test_a_file_of_one_column_has_commas(tmp_path: Path) -> None:
    assert read(written(["x"], [NUMBERS]).encode(), tmp_path).reading.delimiter == ","


@pytest.mark.parametrize("case", SEPARATED)
def test_what_stands_in_texts_is_not_taken_for_the_separator(tmp_path: Path, case: str) -> None:
    sep, names, columns = SEPARATED[case]
    rows = [sep.join(map(str, row)) for row in zip(*columns, strict=True)]  # without quotes
    for number, title in enumerate(("", "Cities of 2024\n")):
        content = title + "\n".join([sep.join(names), *rows, ""])
        facts = read(content.encode(), tmp_path / str(number))
        assert (facts.reading.delimiter, [column.name for column in facts.columns]) == (sep, names)
        assert facts.rows == ROWS
        assert len(facts.warnings) == number


def test_an_option_that_a_format_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="delimiter: must be left out for a file of format parquet"):
        Upload(format_of("a.parquet") or next(iter(FORMATS)), LIMIT, Reading(delimiter=";"))


MIXED = written(
    ["zip", "customer", "score", "grade", "day", "flag", "code", "label"],
    [
        [90_000 + row % 20 for row in range(ROWS)],
        [f"c{row}" for row in range(ROWS)],
        [f"<{x}" if row % 3 == 0 else x for row, x in enumerate(NUMBERS)],
        [row % 4 for row in range(ROWS)],
        tables.dates("{m}/{d}/{y}", tables.AMBIGUOUS),
        [row % 2 for row in range(ROWS)],
        [20_200_101 + row % 28 for row in range(ROWS)],
        [row % 30 for row in range(ROWS)],
    ],
).encode()


@pytest.mark.parametrize(
    ("name", "kind", "features"),
    [
        ("zip", "category", 20),
        ("customer", "category", 64),
        ("customer", "text", 64),
        ("score", "number", 2),
        ("score", "category", 64),
        ("grade", "category", 4),
        ("day", "date", 3),
        ("day", "day_first_date", 3),
        ("flag", "boolean", 1),
        ("code", "date", 2),
        ("zip", "ignore", 0),
    ],
)
def test_a_job_can_take_a_column_for_something_else(tmp_path: Path, name: str, kind: str, features: int) -> None:
    facts = read(MIXED, tmp_path)
    facts.save(tmp_path / "kept")
    spec = DatasetSpec.model_validate({"id": "ds-1", "target": "label", "columns": {name: kind}})
    changed = retyped(facts, spec.columns, tmp_path / "kept")
    use = {use.name: use for use in column_uses(changed, spec)}[name]
    assert (use.features, use.role) == (features, ColumnRole.FEATURE if features else ColumnRole.LEFT_OUT)
    info = dataset_info(changed, spec)
    source = stored_source(tmp_path / "kept", spec, info.task)
    assert isinstance(source, Table)
    x = source.encoder(np.arange(ROWS)).transform(np.arange(ROWS))
    assert x.shape == (ROWS, info.features)
    assert dict(zip(info.columns, info.widths, strict=True)).get(name, 0) == features


def test_the_order_of_day_and_month_is_what_the_job_says(tmp_path: Path) -> None:
    read(MIXED, tmp_path).save(tmp_path / "kept")
    seconds = {}
    for kind in ("date", "day_first_date"):
        spec = DatasetSpec.model_validate({"id": "ds-1", "columns": {"day": kind}})
        source = stored_source(tmp_path / "kept", spec, Task.AUTOENCODING)
        assert isinstance(source, Table)
        seconds[kind] = source.column("day")[11]  # 12/1/2020
    assert (seconds["date"] - seconds["day_first_date"]) / 86_400 == 335 - 11


@pytest.mark.parametrize(
    ("columns", "field", "expected"),
    [
        ({"zpi": "category"}, "dataset.columns.zpi", "Did you mean 'zip'?"),
        ({"customer": "number"}, "dataset.columns.customer", "60 of 60 cells are not numbers, the first is 'c0'"),
        ({"grade": "boolean"}, "dataset.columns.grade", "neither 0 nor 1 is 2 in row 3"),
        ({"customer": "boolean"}, "dataset.columns.customer", "one is 'c0'"),
        ({"grade": "date"}, "dataset.columns.grade", "60 of 60 cells are not dates, the first is '0' in row 1"),
        ({"label": "ignore"}, "dataset.columns.label", "must be a feature: this column is the target"),
    ],
)  # fmt: skip
def test_a_kind_that_a_column_does_not_have_is_refused(
    tmp_path: Path, columns: dict[str, Any], field: str, expected: str
) -> None:
    facts = read(MIXED, tmp_path)
    spec = DatasetSpec(id="ds-1", target="label", columns=columns)
    with pytest.raises(InvalidSpecError) as caught:
        dataset_info(retyped(facts, columns, tmp_path / "kept"), spec)
    (error,) = caught.value.errors
    assert error.field == field
    assert expected in f"{error.message} {error.hint}"


def labels(count: int, first: int = 0) -> bytes:
    return written(["x", "y"], [range(300), [first + row % count for row in range(300)]]).encode()


@pytest.mark.parametrize(
    ("content", "columns", "task", "outputs", "reason"),
    [
        (labels(3), {}, "classification", 3, "3 distinct whole numbers in 300 rows"),
        (labels(30), {}, "classification", 30, "30 distinct whole numbers in 300 rows"),
        (labels(30), {"y": "number"}, "regression", 1, "dataset.columns takes the target for a number"),
        (labels(3), {"y": "number"}, "regression", 1, "dataset.columns takes the target for a number"),
        (labels(30, 18), {}, "regression", 1, "30 distinct whole numbers in 300 rows"),
        (labels(30, 18), {"y": "category"}, "classification", 30, "30 distinct text values in 300 rows"),
        (labels(100), {}, "regression", 1, "100 distinct whole numbers in 300 rows"),
    ],
)
def test_the_task_follows_from_the_target_and_says_why(
    tmp_path: Path, content: bytes, columns: dict[str, Any], task: str, outputs: int, reason: str
) -> None:
    facts = read(content, tmp_path)
    facts.save(tmp_path / "kept")
    spec = DatasetSpec(id="ds-1", target="y", columns=columns)
    info = dataset_info(retyped(facts, columns, tmp_path / "kept"), spec)
    assert (info.task, info.outputs, info.task_reason) == (task, outputs, reason)
    source = stored_source(tmp_path / "kept", spec, info.task)
    assert isinstance(source, Table)
    assert len(source.target.labels) == (outputs if task == "classification" else 0)


def test_counts_with_rare_values_are_refused_as_classes_with_what_to_do(tmp_path: Path) -> None:
    facts = read(written(["x", "y"], [range(60), [0, 1, 2, 3] * 14 + [4, 5, 6, 7]]).encode(), tmp_path)
    with pytest.raises(InvalidSpecError) as caught:
        dataset_info(facts, DatasetSpec(id="ds-1", target="y"))
    assert caught.value.errors[0].hint == "Set dataset.task to regression to predict a number."


@pytest.mark.parametrize("columns", [{}, {"x": "category"}, {"x": "number"}])
def test_whole_numbers_that_are_rounded_are_named(tmp_path: Path, columns: dict[str, str]) -> None:
    ids = [1_234_567_890_123_456_789 + row // 6 for row in range(ROWS)]
    facts = read(written(["x", "label"], [ids, LABELS]).encode(), tmp_path)
    column = retyped(facts, columns, tmp_path / "kept").target("x")
    assert column is not None
    said = (
        "whole numbers over 2^53 are rounded, so that neighbours become equal: put a letter before each if they are ids"
    )
    assert said in column.warnings
    small = read(written(["x", "label"], [range(2**53 - 59, 2**53 + 1), LABELS]).encode(), tmp_path / "small").target(
        "x"
    )
    assert small is not None
    assert not any("rounded" in note for note in small.warnings)


def test_a_sign_behind_a_digit_is_named(tmp_path: Path) -> None:
    grades = [("1", "2-", "2", "3-")[row % 4] for row in range(ROWS)]
    column = read(written(["x", "label"], [grades, LABELS]).encode(), tmp_path).target("x")
    assert column is not None
    assert column.warnings == ("'2-' in row 2 is read as -2: say category in dataset.columns if these are grades",)
    amounts = [f"{row + 10}-" for row in range(ROWS)]
    column = read(written(["x", "label"], [amounts, LABELS]).encode(), tmp_path / "amounts").target("x")
    assert column is not None
    assert (column.low, column.warnings) == (-69.0, ())


def test_a_refused_excel_file_says_that_its_first_sheet_was_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"has 2 rows .*; the first of 2 sheets is read"):
        read(tables.excel([["Read me"], ["first"], ["second"]], sheets=2), tmp_path, "table.xlsx")


def test_the_classes_of_a_boolean_target_are_its_words(tmp_path: Path) -> None:
    read(PLAIN.encode(), tmp_path).save(tmp_path / "kept")
    source = stored_source(tmp_path / "kept", DatasetSpec(id="ds-1", target="label"), Task.CLASSIFICATION)
    assert isinstance(source, Table)
    assert source.target.labels == ("no", "yes")


def test_an_id_that_is_the_target_or_has_a_kind_is_used(tmp_path: Path) -> None:
    facts = read(MIXED, tmp_path)
    assert dataset_info(facts, DatasetSpec(id="ds-1", target="label")).left_out == {
        "customer": "nearly every row has another value"
    }
    assert uses_of(facts, target="customer")["customer"].role is ColumnRole.TARGET


def test_a_dataset_that_an_earlier_version_stored_is_read_as_it_was(tmp_path: Path) -> None:
    read(PLAIN.encode(), tmp_path)
    earlier = {
        "layout": "table",
        "rows": ROWS,
        "columns": [
            {"name": "x", "kind": "number", "type": "double", "distinct": 59, "low": -3.0, "high": 5.3},
            {"name": "city", "kind": "category", "type": "string", "distinct": 4, "levels": dict.fromkeys(CITIES, 15)},
            {"name": "label", "kind": "category", "type": "string", "distinct": 2, "levels": {"no": 20, "yes": 40}},
        ],
    }
    facts = DatasetFacts.from_json(json.loads(json.dumps(earlier)))
    facts.save(tmp_path / "kept")
    info = dataset_info(facts, DatasetSpec(id="ds-1", target="label"))
    source = stored_source(tmp_path / "kept", DatasetSpec(id="ds-1", target="label"), info.task)
    assert isinstance(source, Table)
    assert source.encoder(np.arange(ROWS)).transform(np.arange(ROWS)).shape == (ROWS, info.features) == (ROWS, 5)


def test_a_column_that_becomes_text_late_keeps_every_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.data.read_csv.BLOCK_BYTES", 1000)
    versions = [f"1.{row % 12}0" for row in range(600)]
    content = written(["v", "label"], [[*versions, *["1.10.1"] * 100], (LABELS * 12)[:700]]).encode()
    read(content, tmp_path)
    stored = pyarrow.parquet.read_table(tmp_path / "kept" / TABLE_FILE).column("v").to_pylist()
    assert stored[:600] == versions


def test_a_padded_code_far_down_keeps_the_others_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.data.read_csv.BLOCK_BYTES", 1000)
    codes = [str(20_000 + row % 30) for row in range(600)] + ZIPS
    facts = read(written(["zip", "label"], [codes, (LABELS * 11)[:660]]).encode(), tmp_path)
    column = facts.target("zip")
    assert column is not None
    assert column.kind == "category"
    assert column.levels == {code: codes.count(code) for code in sorted(set(codes))}


def test_whole_numbers_before_others_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.data.read_csv.BLOCK_BYTES", 1000)
    values = [*range(600), *NUMBERS]
    facts = read(written(["x", "label"], [values, (LABELS * 11)[:660]]).encode(), tmp_path)
    column = facts.target("x")
    assert column is not None
    assert (column.kind, column.type, column.low, column.high) == ("number", "double", min(values), 599.0)
    assert pyarrow.parquet.read_table(tmp_path / "kept" / TABLE_FILE).column("x").to_pylist() == values
