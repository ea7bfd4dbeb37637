"""Tells from the first bytes of a file what it is, where that is not what the ending of its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from service.errors import InvalidFileError

_RENAME: Final = "give its name the ending {}"
_SAVE: Final = "save its table as .csv or .xlsx"

BEGINNINGS: Final = (
    (b"PK\x03\x04", "an Excel file or a zip", _RENAME.format(".xlsx or .zip")),
    (b"\xd0\xcf\x11\xe0", "an old Excel file (.xls)", "save it as .xlsx"),
    (b"PAR1", "a Parquet file", _RENAME.format(".parquet")),
    (b"ARROW1", "a Feather file", _RENAME.format(".feather")),
    (b"\x93NUMPY", "a NumPy array (.npy)", "save it with numpy.savez as .npz"),
    (b"SQLite format 3", "an SQLite database", _SAVE),
    (b"%PDF", "a PDF", _SAVE),
    (b"\x89PNG", "an image", "put images into a .zip with a folder for each class"),
    (b"\xff\xd8\xff", "an image", "put images into a .zip with a folder for each class"),
    (b"<!doctype html", "a web page", "look at it in a browser: it may ask you to sign in"),
    (b"<html", "a web page", "look at it in a browser: it may ask you to sign in"),
    (b"<?xml", "an XML file", _SAVE),
    (b'{"', "a JSON file", _SAVE),
    (b"[{", "a JSON file", _SAVE),
)
"""How files begin, in lower case where they are texts; what they are; what to do."""


def check_contents(source: Path, expected: str) -> None:
    """Refuse a file that is something else than ``expected``, such as CSV.

    Raises:
        InvalidFileError: Says what it is.
    """
    with source.open("rb") as file:
        head = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, what, advice in BEGINNINGS:
        if head.startswith(beginning) or head.lower().startswith(beginning):
            raise InvalidFileError(f"the file is {what}, not {expected}: {advice}")
