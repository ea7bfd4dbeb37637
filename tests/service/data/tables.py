# Tables as people have them, and what is right to read of each: kind, missing cells, the first value.
from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.feather

from tests.service.data import files

ROWS = 60
NUMBERS = [round((row * 37 % 59) / 7 - 3, 2) for row in range(ROWS)]
"""59 different numbers with two decimals, the first -3.0."""
AMOUNTS = [1234.5 + row * 1000.25 for row in range(ROWS)]
ODD = [row % 2 == 1 for row in range(ROWS)]
LABELS = ["yes" if row % 3 else "no" for row in range(ROWS)]
CITIES = [("Köln", "Rome", "Oslo", "Bonn")[row % 4] for row in range(ROWS)]
DAYS = [(1 + row % 12, 1 + row % 28, 2020 + row % 3) for row in range(ROWS)]
"""Month, day and year: the first is January 1, 2020."""
JAN_1 = 1_577_836_800.0
JANUARY = dt.datetime(2020, 1, 1)
MOMENTS = [JANUARY + dt.timedelta(hours=18 + 7 * row, minutes=30) for row in range(ROWS)]


class Right(NamedTuple):
    """What is right to read of a column."""

    kind: str
    first: Any = None
    missing: int = 0
    warning: str = ""


@dataclass(frozen=True)
class Table:
    """A file, and what is right to read of its columns; a label, if there is one, is not listed."""

    name: str
    content: bytes
    columns: dict[str, Right]
    filename: str = "table.csv"


def written(header: Sequence[str], columns: Sequence[Sequence[Any]], sep: str = ",", end: str = "\n") -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=sep, lineterminator=end)
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return buffer.getvalue()


def one(name: str, values: Sequence[Any], right: Right, column: str = "x", sep: str = ",") -> Table:
    """A table of one column in question, and a label."""
    return Table(name, written([column, "label"], [values, LABELS], sep).encode(), {column: right})


def replaced(values: Sequence[Any], cells: dict[int, str]) -> list[Any]:
    return [cells.get(row, value) for row, value in enumerate(values)]


def german(number: float) -> str:
    return f"{number:,.2f}".translate(str.maketrans(",.", ".,"))


def excel(rows: Sequence[Sequence[Any]], sheets: int = 1) -> bytes:
    """An Excel file with one sheet of texts, numbers, booleans and points in time, or several that are the same."""

    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return f'<c t="b"><v>{int(value)}</v></c>'
        if isinstance(value, int | float):
            return f"<c><v>{value}</v></c>"
        if isinstance(value, dt.datetime):
            return f'<c s="1"><v>{(value - dt.datetime(1899, 12, 30)) / dt.timedelta(days=1)!r}</v></c>'
        return f'<c t="inlineStr"><is><t xml:space="preserve">{value}</t></is></c>'

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    listed = "".join(f'<sheet name="s{n}" sheetId="{n}" r:id="r1"/>' for n in range(1, sheets + 1))
    body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/styles.xml" ContentType="{kind}.styles+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="r2" Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs>'
        '<xf numFmtId="0"/><xf numFmtId="22"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>',
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in parts.items():
            archive.writestr(path, text)
    return buffer.getvalue()


def feather(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.feather.write_feather(pa.table(columns), buffer)
    return buffer.getvalue()


def dates(form: str, values: Sequence[tuple[int, int, int]] = DAYS) -> list[str]:
    return [form.format(m=month, d=day, y=year) for month, day, year in values]


AT_SIX, AT_SIX_THIRTY = Right("number", 64_800.0), Right("number", 66_600.0)
PLAIN = written(["x", "city", "label"], [NUMBERS, CITIES, LABELS])
PLAIN_RIGHT = {"x": Right("number", -3.0), "city": Right("category", "Köln")}
ZIPS = [f"{1000 + row % 20 * 37:05d}" for row in range(ROWS)]
NUMBER = Right("number", -3.0)
DATE = Right("date", JAN_1)
UNITS = Right("text", warning="different units, so not read as numbers: 'k' (40), 'M' (20)")
COMMAS = Right("text", "1234.50", warning="30 of 60 cells are not numbers")
COMMA_OR_POINT = [f"{x:.2f}".replace(".", ".,"[row % 2]) for row, x in enumerate(AMOUNTS)]
THOUSANDS = [f"{round(x):,}" for x in AMOUNTS]
SHARP = {"#x": NUMBER, "city": Right("category", "Köln")}
SPARSE = [
    CITIES,
    ["" if row % 9 else "x" for row in range(ROWS)],
    ["" if row % 8 else "u" for row in range(ROWS)],
    LABELS,
]
GAP = Right("category", "x", 53)
CITY = Right("category", "Köln")
GAP_LAST = [CITIES, LABELS, SPARSE[1]]
SPARSE_RIGHT = {"#city": CITY, "a": GAP, "b": Right("category", "u", 52)}
SPARSE_PLAIN = {"city": CITY, "a": GAP, "b": Right("category", "u", 52)}
GAP_RIGHT = {"#city": CITY, "a": GAP}
INDEX = [f"{row},{x},{label}" for row, (x, label) in enumerate(zip(NUMBERS, LABELS, strict=True))]
MIXED = [f"{'$€'[row % 2]}{x:.2f}" for row, x in enumerate(AMOUNTS)]
NOTES = [f"note {row} on the {row * 7 % 11}th of the month" for row in range(ROWS)]
LINES = [f"first line {row}\nsecond line, {row % 7}" for row in range(ROWS)]
AMBIGUOUS = [(1 + row % 12, 1 + row % 11, 2020) for row in range(ROWS)]
RUSSIAN = [("Москва", "Казань", "Тверь")[row % 3] for row in range(ROWS)]

MARKED = [
    one(f"cells {mark!r}", replaced(NUMBERS, {4: mark, 30: mark, 50: mark}), Right("number", -3.0, 3))
    for mark in ("", " ", "None", "?", "-", "--", "n/a", "NULL", "#N/A", "unknown", ".")
]

TABLES = [
    Table("plain", PLAIN.encode(), PLAIN_RIGHT),
    *MARKED,
    one("half of the cells '-'", replaced(NUMBERS, dict.fromkeys(range(1, 60, 2), "-")), Right("number", -3.0, 30)),
    one("odd cells", replaced(NUMBERS, {7: "n/k", 9: "<5"}), Right("number", -3.0, 2, "'n/k' in row 8")),
    one("total row", [*NUMBERS[:-1], "Total"], Right("number", -3.0, 1, "'Total' in row 60")),
    one("decimal commas", [str(x).replace(".", ",") for x in NUMBERS], NUMBER),
    one("decimal commas between semicolons", [str(x).replace(".", ",") for x in NUMBERS], NUMBER, sep=";"),
    one("three decimals between semicolons", [f"{x:.3f}".replace(".", ",") for x in NUMBERS], NUMBER, sep=";"),
    one("thousands", [f"{x:,.2f}" for x in AMOUNTS], Right("number", 1234.5)),
    one("whole thousands", [f"{round(x):,}" for x in AMOUNTS], Right("number", 1234.0)),
    one("a remark first", ["soon, we hope", *THOUSANDS[1:]], Right("number", None, 1, "'2,235' is read as")),
    one("German thousands", [german(x) for x in AMOUNTS], Right("number", 1234.5), sep=";"),
    one("thousands of spaces", [f"{x:,.2f}".replace(",", "\u202f") for x in AMOUNTS], Right("number", 1234.5)),
    one("Swiss thousands", [f"{x:,.2f}".replace(",", "'") for x in AMOUNTS], Right("number", 1234.5)),
    one("dollars", [f"${x:,.2f}" for x in AMOUNTS], Right("number", 1234.5)),
    one("euros", [f"{german(x)} €" for x in AMOUNTS], Right("number", 1234.5)),
    one("EUR", [f"EUR {x:.2f}" for x in AMOUNTS], Right("number", 1234.5)),
    one("per cent", [f"{x}%" for x in NUMBERS], NUMBER),
    one("dollars in thousands", [f"${x:.1f}k" for x in AMOUNTS], Right("number", 1234.5)),
    one("losses in millions", [f"(€{x:,.1f} M)" for x in AMOUNTS], Right("number", -1234.5)),
    one("thousands of euros", [f"{german(x)} k€" for x in AMOUNTS], Right("number", 1234.5), sep=";"),
    one("dollars, and their code", [f"$ {x:,.2f} USD" for x in AMOUNTS], Right("number", 1234.5)),
    one("kilograms", [f"{x} kg" for x in NUMBERS], NUMBER),
    one("milliseconds", [f"{x:.1f}ms" for x in AMOUNTS], Right("number", 1234.5)),
    one("degrees", [f"{x}\u00b0C" for x in NUMBERS], NUMBER),
    one("pieces in German", [f"{german(x)} Stk." for x in AMOUNTS], Right("number", 1234.5), sep=";"),
    one("speeds", [f"{x} km/h" for x in NUMBERS], NUMBER),
    one("minus signs behind", [f"{-x}-" if x < 0 else x for x in NUMBERS], NUMBER),
    one("long dashes for minus", [f"\u2013{-x}" if x < 0 else x for x in NUMBERS], NUMBER),
    one("stars behind", [f"{x}{'*' * (row % 4)}" for row, x in enumerate(NUMBERS)], Right("id", warning="'2.29*'")),
    one("points and commas", COMMA_OR_POINT, COMMAS, "x", ";"),
    one("remarks behind", [f"{row % 9} (est.)" for row in range(ROWS)], Right("category", "0 (est.)", 0, "a remark")),
    one("several units", [f"{x:.1f}{'kM'[row % 3 == 0]}" for row, x in enumerate(AMOUNTS)], UNITS),
    one("dollars in k and M", [f"${x:.1f}{'kM'[row % 3 == 0]}" for row, x in enumerate(AMOUNTS)], UNITS),
    one("blood pressures", [f"{120 + row}/{80 + row % 20}" for row in range(ROWS)], Right("id", warning="'120/80'")),
    one("durations", [f"{row % 9}h {row}min" for row in range(ROWS)], Right("text", warning="two numbers in a cell")),
    one("-999 for missing", replaced(NUMBERS, {4: "-999", 9: "-999"}), Right("number", -3.0, warning="2 of 60")),
    one("999 among others", [900 + row * 3 for row in range(ROWS)], Right("number", 900.0)),
    one("marks among words", replaced(CITIES, {4: "?", 8: "?"}), Right("category", "Köln", warning="'?' (2)")),
    one("brackets for minus", [f"({-x})" if x < 0 else x for x in NUMBERS], NUMBER),
    one("true minus signs", [str(x).replace("-", "\u2212") for x in NUMBERS], NUMBER),
    one("plus signs", [f"{x:+}" for x in NUMBERS], NUMBER),
    one("exponents", [f"{x:e}" for x in NUMBERS], NUMBER),
    one("numbers without a zero", [f"{x:.2f}".replace("0.", ".") for x in NUMBERS], NUMBER),
    one("mixed currencies", MIXED, Right("text", "$1234.50", warning="30 of 60 cells are not numbers")),
    one("leading zeros", ZIPS, Right("category", "01000", warning="begin with 0"), "zip"),
    one("postcodes without zeros", [f"9{z[1:]}" for z in ZIPS], Right("number", 91000.0, warning="like a code"), "zip"),
    one("codes", [f"{row % 20:04x}" for row in range(ROWS)], Right("category", "0000")),
    one("version numbers", [f"1.{row % 12}.{row % 3}" for row in range(ROWS)], Right("category", "1.0.0")),
    one("customer ids", [f"{row:04d}-QX" for row in range(ROWS)], Right("id"), "customer"),
    one("whole ids", [70_000 + row * 7 for row in range(ROWS)], Right("id"), "customerID"),
    one("UUIDs", [str(uuid.UUID(int=row << 90)) for row in range(ROWS)], Right("id")),
    one("padded counter", [f"{row:06d}" for row in range(ROWS)], Right("id"), "order"),
    one("row number under another name", range(1, ROWS + 1), Right("number", 1.0, warning="counts up"), "day"),
    Table("pandas index", "\n".join([",x,label", *INDEX]).encode(), {"Unnamed: 0": Right("index"), "x": NUMBER}),
    one("pandas index with a name", range(ROWS), Right("index"), "Unnamed: 0"),
    Table("row names", "\n".join(["x,label", *INDEX]).encode(), {"Unnamed: 0": Right("index"), "x": NUMBER}),
    Table("separators at the end and a #", f"#{PLAIN}".replace("\n", ",\n").encode(), SHARP),
    Table("separator at the end", PLAIN.replace("no\n", "no,\n").replace("yes\n", "yes,\n").encode(), PLAIN_RIGHT),
    one("constant", [7] * ROWS, Right("constant")),
    one("empty column", [""] * ROWS, Right("constant")),
    one("true and false", [row % 3 == 1 for row in range(ROWS)], Right("boolean", 0)),
    one("Y and N", ["NY"[row % 2] for row in range(ROWS)], Right("boolean", 0)),
    one("yes, No and ?", [("yes", "No", "?")[row % 3] for row in range(ROWS)], Right("boolean", 1, 20)),
    one("plus and minus", ["+-"[row % 2] for row in range(ROWS)], Right("category", "+")),
    one("dates", dates("{y}-{m:02d}-{d:02d}"), DATE),
    one("dates with slashes", dates("{y}/{m}/{d}"), DATE),
    one("points in time", dates("{y}-{m:02d}-{d:02d}T06:30:00"), Right("date", JAN_1 + 23_400)),
    one("points in time with zones", dates("{y}-{m:02d}-{d:02d} 06:30:00+02:00"), Right("date", JAN_1 + 16_200)),
    one("German dates", dates("{d:02d}.{m:02d}.{y}"), DATE),
    one("American dates", dates("{m}/{d}/{y}"), DATE),
    one("American times", dates("{m}/{d}/{y} 6:30 PM"), Right("date", JAN_1 + 66_600)),
    one("British dates", dates("{d}/{m}/{y}"), DATE),
    one("dates either way", dates("{m}/{d}/{y}", AMBIGUOUS), Right("text", "1/1/2020", warning="mm/dd/yyyy or dd/mm")),
    one("dates with names", [f"{d:02d}-Jan-{y}" for _, d, y in DAYS], DATE),
    one("dates with odd cells", replaced(dates("{d}.{m}.{y}"), {3: "31.02.2020", 5: "soon"}), Right("date", JAN_1, 2)),
    one("times of day", [f"{row % 24}:{row % 60:02d}" for row in range(ROWS)], Right("number", 0.0)),
    one("times of a 12-hour clock", [f"{t:%I:%M %p}".lstrip("0") for t in MOMENTS], AT_SIX_THIRTY, "start_time"),
    one("times of a 12-hour clock with seconds", [f"{t:%I:%M:%S\u202f%p}" for t in MOMENTS], AT_SIX_THIRTY),
    one("times with a.m. and p.m.", [f"{t.hour % 12 or 12}:30 {'ap'[t.hour > 11]}.m." for t in MOMENTS], AT_SIX_THIRTY),
    one("hours of a 12-hour clock", [f"{t.hour % 12 or 12}{'ap'[t.hour > 11]}m" for t in MOMENTS], AT_SIX),
    one("midnight and noon", ["12:00 AM", "12:00 PM", *["1:00 PM"] * 58], Right("number", 0.0)),
    Table("tabs", PLAIN.replace(",", "\t").encode(), PLAIN_RIGHT, "table.tsv"),
    Table("bars", PLAIN.replace(",", "|").encode(), PLAIN_RIGHT),
    Table("semicolons", PLAIN.replace(",", ";").encode(), PLAIN_RIGHT),
    Table("gzip", gzip.compress(PLAIN.encode()), PLAIN_RIGHT, "table.csv.gz"),
    Table("UTF-8 with a mark", PLAIN.encode("utf-8-sig"), PLAIN_RIGHT),
    Table("UTF-16", PLAIN.encode("utf-16"), PLAIN_RIGHT),
    Table("UTF-16 without a mark", PLAIN.encode("utf-16-le"), PLAIN_RIGHT),
    Table("Western European", PLAIN.encode("cp1252"), PLAIN_RIGHT),
    Table("a title", f"Sales of 2024\n{PLAIN}".encode(), PLAIN_RIGHT),
    Table("remarks", f"# made by a tool\n# units: m, s\n{PLAIN}".encode(), PLAIN_RIGHT),
    Table("a header that begins with #", f"#{PLAIN}".encode(), SHARP),
    Table("a header with # over gaps", written(["#city", "a", "b", "label"], SPARSE).encode(), SPARSE_RIGHT),
    Table("a header with # over a last gap", written(["#city", "label", "a"], GAP_LAST).encode(), GAP_RIGHT),
    Table("a remark over gaps", f"# a, b\n{written(['city', 'a', 'b', 'label'], SPARSE)}".encode(), SPARSE_PLAIN),
    Table(
        "Excel with a header with # over gaps",
        excel([["#city", "a", "b", "label"], *zip(*SPARSE, strict=True)]),
        SPARSE_RIGHT,
        "table.xlsx",
    ),
    Table(
        "Excel with a remark over gaps",
        excel([["# units: m", "", "", ""], ["city", "a", "b", "label"], *zip(*SPARSE, strict=True)]),
        SPARSE_PLAIN,
        "table.xlsx",
    ),
    Table("a title with separators", f"Sales;;\n;;\n{PLAIN.replace(',', ';')}".encode(), PLAIN_RIGHT),
    Table(
        "Cyrillic",
        written(["x", "город", "label"], [NUMBERS, RUSSIAN, LABELS]).encode("cp1251"),
        {"x": NUMBER, "город": Right("category", "Москва")},
    ),
    Table("lines of Windows", PLAIN.replace("\n", "\r\n").encode(), PLAIN_RIGHT),
    Table("blank lines", f"\n{PLAIN}\n\n".encode(), PLAIN_RIGHT),
    Table("spaces around cells", PLAIN.replace(",", " , ").encode(), PLAIN_RIGHT),
    one("free text", NOTES, Right("text", NOTES[0])),
    one("cells of several lines", LINES, Right("text", LINES[0])),
    one("quotes within cells", [f'{5 + row % 4}\' 10" tall' for row in range(ROWS)], Right("category", "5' 10\" tall")),
    one("NA in words", replaced(CITIES, {4: "NA", 8: "NA"}), Right("category", "Köln", 2)),
    Table(
        "Excel",
        excel([["x", "zip", "ok"], *([x, zip_, ok] for x, zip_, ok in zip(NUMBERS, ZIPS, ODD, strict=True))]),
        {"x": NUMBER, "zip": Right("category", "01000"), "ok": Right("boolean", 0)},
        "table.xlsx",
    ),
    Table(
        "Excel with a title",
        excel([["Sales"], [], ["x", "label"], *zip(NUMBERS, LABELS, strict=True)]),
        {"x": NUMBER},
        "table.xlsx",
    ),
    Table(
        "Excel of points in time, some of them at midnight",
        excel([["t", "label"], *([JANUARY + dt.timedelta(hours=6 * row), LABELS[row]] for row in range(ROWS))]),
        {"t": Right("date", JAN_1)},
        "table.xlsx",
    ),
    Table(
        "Excel of days",
        excel([["t", "label"], *([JANUARY + dt.timedelta(days=row), LABELS[row]] for row in range(ROWS))]),
        {"t": Right("date", JAN_1)},
        "table.xlsx",
    ),
    Table(
        "Excel of numbers over 64 bits",
        excel([["t", "label"], *([1e20 * (row + 1), LABELS[row]] for row in range(ROWS))]),
        {"t": Right("number", 1e20)},
        "table.xlsx",
    ),
    Table(
        "Excel of texts",
        excel([["x", "label"], *([f"{x:.2f} €", label] for x, label in zip(NUMBERS, LABELS, strict=True))]),
        {"x": NUMBER},
        "table.xlsx",
    ),
    Table(
        "Parquet of categories",
        files.table(x=pa.array([row % 5 * 10 for row in range(ROWS)]).dictionary_encode(), label=LABELS),
        {"x": Right("category", "0")},
        "table.parquet",
    ),
    Table(
        "Parquet with an index",
        files.table(x=NUMBERS, label=LABELS, __index_level_0__=list(range(0, 2 * ROWS, 2))),
        {"x": NUMBER, "__index_level_0__": Right("index")},
        "table.parquet",
    ),
    Table(
        "Parquet of texts",
        files.table(x=[f" {x}" for x in NUMBERS], zip=ZIPS, day=dates("{d}.{m}.{y}")),
        {"x": NUMBER, "zip": Right("category", "01000"), "day": DATE},
        "table.parquet",
    ),
    Table(
        "Feather",
        feather(x=NUMBERS, ok=ODD, city=CITIES),
        {"x": NUMBER, "ok": Right("boolean", 0), "city": Right("category", "Köln")},
        "table.feather",
    ),
]  # fmt: skip
"""All tables. Tests read each; ``benchmarks/reading`` compares other readers on the same."""
