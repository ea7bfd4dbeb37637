"""Reads plain text in UTF-8, which is kept as it came."""

from __future__ import annotations

import codecs
import shutil
from pathlib import Path
from typing import Final

from service.data.facts import DatasetFacts, Layout
from service.errors import InvalidFileError

TEXT_FILE: Final = "text.txt"
"""File of a dataset folder that the text is kept in."""

CHUNK_BYTES: Final = 1 << 20
"""Bytes that are in memory at once."""

MIN_BYTES: Final = 1000
"""Shortest text that leaves something for each of the three parts."""


def check_utf8(source: Path) -> tuple[set[str], int]:
    """Read a whole file; return its distinct characters and its length in characters.

    Raises:
        InvalidFileError: The file is not UTF-8; the message names the row, found by its line ends.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    characters: set[str] = set()
    row, pending, length = 1, 0, 0
    with source.open("rb") as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            try:
                piece = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                row += chunk.count(b"\n", 0, max(error.start - pending, 0))
                wrong = error.object[error.start]
                message = f"row {row} is not UTF-8: it has the byte 0x{wrong:02x}; save the file as UTF-8"
                raise InvalidFileError(message) from error
            characters.update(piece)
            length += len(piece)
            if not chunk:
                return characters, length
            row += chunk.count(b"\n")
            pending = len(decoder.getstate()[0])


def read_text(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Read a plain text; a reader of ``upload.py``."""
    del max_bytes
    characters, length = check_utf8(source)
    size = source.stat().st_size
    if size < MIN_BYTES:
        raise InvalidFileError(f"the text has {size} bytes; at least {MIN_BYTES} are needed")
    shutil.copyfile(source, folder / TEXT_FILE)
    return DatasetFacts(layout=Layout.TEXT, rows=size, characters=len(characters), length=length)
