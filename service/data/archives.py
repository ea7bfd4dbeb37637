# A zip file from a stranger: names that lead out of its folder, sizes that explode, streams that are damaged. Looked at
# before anything in it is unpacked; what is in it is arrays.py's and images.py's business.
"""Safe reading of zip files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from service.errors import InvalidFileError, shortened

MAX_ENTRIES: Final = 1_000_000
"""Files of one archive."""

METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression that is read: what numpy and every zip program write by default."""


@contextmanager
def open_zip(source: Path, max_bytes: int) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """Open an archive whose files are all inside its folder and fit into ``max_bytes`` together; yield its files.

    Raises:
        InvalidFileError: It is no such archive.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            _check(entries, max_bytes)
            yield archive, entries
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"it is no zip file that can be read: {error}") from error


def _check(entries: list[zipfile.ZipInfo], max_bytes: int) -> None:
    if len(entries) > MAX_ENTRIES:
        raise InvalidFileError(f"the archive has {len(entries)} files; {MAX_ENTRIES} are the most")
    total = 0
    seen: set[str] = set()
    for entry in entries:
        name = repr(shortened(entry.filename))
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if not path.parts:
            raise InvalidFileError(f"a file in the archive has the name {name}; expected the name of a file")
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise InvalidFileError(f"the name {name} in the archive leads out of its folder")
        if entry.filename in seen:
            raise InvalidFileError(f"the archive has two files with the name {name}")
        if entry.header_offset < 0:
            raise zipfile.BadZipFile(f"{name} is at {entry.header_offset}, before the archive begins")
        if entry.compress_type not in METHODS:
            raise InvalidFileError(
                f"{name} is compressed by the method {entry.compress_type}; expected deflate or none"
            )
        seen.add(entry.filename)
        total += entry.file_size
        if total > max_bytes:
            raise InvalidFileError(
                f"unpacked it has {total} bytes with {name}, more than the {max_bytes} that are allowed"
            )
