# A file that is not what its name says is refused with what it is, before its bytes are read as cells.
from __future__ import annotations

import io
import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidFileError
from tests.service.data import files
from tests.service.data.tables import LABELS, NUMBERS, PLAIN, excel, feather
from tests.service.data.test_reading import read


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "w.db") as connection:
        connection.execute("create table t (x)")
    return (folder / "w.db").read_bytes()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(20))
    return buffer.getvalue()


CONTENTS = {
    "Excel": (excel([["x", "label"], *zip(NUMBERS, LABELS, strict=True)]), "an Excel file or a zip"),
    "old Excel": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000),
        r"an old Excel file \(.xls\), not CSV: save it as",
    ),
    "Parquet": (files.table(x=NUMBERS), "a Parquet file, not CSV: give its name the ending .parquet"),
    "Feather": (feather(x=NUMBERS), "a Feather file"),
    "NumPy": (npy(), "a NumPy array"),
    "PDF": (b"%PDF-1.4\n%\xe2\xe3\n" * 20, "a PDF"),
    "an image": (files.png(np.zeros((8, 8))), "an image"),
    "a web page": (b"\n<!DOCTYPE html>\n<html>\n" * 20, "a web page"),
    "JSON": (b'\xef\xbb\xbf{"rows": [\n' + b"1,\n" * 20 + b"2]}", "a JSON file"),
    "random bytes": (random.Random(0).randbytes(4000), "not text: it has zero bytes"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_what_is_not_csv_is_named(tmp_path: Path, case: str) -> None:
    content, expected = CONTENTS[case]
    with pytest.raises(InvalidFileError, match=f"the file is {expected}"):
        read(content, tmp_path)


def test_a_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="an SQLite database"):
        read(database(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PLAIN.encode(), "not Excel: if it is a text, give its name the ending .csv"),
        (b"<html><table>", "a web page, not Excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000), "an old Excel file"),
    ],
)
def test_what_is_not_excel_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    with pytest.raises(InvalidFileError, match=expected):
        read(content, tmp_path, "table.xlsx")
