"""The file formats of uploads, and the reader of each.

To add a format, write a reader and add a member and an entry here. A reader is a function
``(source, folder, max_bytes) -> DatasetFacts``. It checks the file ``source``, which may take ``max_bytes`` unpacked,
writes its data to ``folder`` in one of the layouts of ``facts.Layout``, and returns the facts about it. It raises
``InvalidFileError`` for a file that cannot be used; the message names the row and the column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path, PurePath
from pkgutil import resolve_name
from typing import Final, NamedTuple

from service.data.facts import DatasetFacts

Reader = Callable[[Path, Path, int], DatasetFacts]


class FileFormat(StrEnum):
    """Format of an uploaded file."""

    CSV = "csv"
    PARQUET = "parquet"
    NPZ = "npz"
    TEXT = "text"
    IMAGES = "images"


class Format(NamedTuple):
    """The ending of a file's name, and the reader as ``module:function``, imported when it is needed."""

    suffix: str
    reader: str


FORMATS: Final[Mapping[FileFormat, Format]] = {
    FileFormat.CSV: Format(".csv", "service.data.read_table:read_csv"),
    FileFormat.PARQUET: Format(".parquet", "service.data.read_table:read_parquet"),
    FileFormat.NPZ: Format(".npz", "service.data.read_npz:read_npz"),
    FileFormat.TEXT: Format(".txt", "service.data.read_text:read_text"),
    FileFormat.IMAGES: Format(".zip", "service.data.read_images:read_images"),
}


def format_of(filename: str) -> FileFormat | None:
    """Return the format that the ending of a name stands for; None if it is unknown.

    >>> format_of("People.CSV")
    <FileFormat.CSV: 'csv'>
    """
    suffix = PurePath(filename.lower()).suffix
    return next((fmt for fmt, known in FORMATS.items() if known.suffix == suffix), None)


def reader_of(fmt: FileFormat) -> Reader:
    """Return the reader of a format."""
    reader: Reader = resolve_name(FORMATS[fmt].reader)
    return reader
