"""Opens zip files from users safely.

Names that lead out of the folder, sizes that explode and damaged streams are refused before anything is unpacked.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from service.errors import InvalidFileError, shortened

MAX_ENTRIES: Final = 1_000_000
"""Most files in one archive."""

METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods that are read: what numpy and every zip program write by default."""


@contextmanager
def open_zip(source: Path, max_bytes: int) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """Open an archive and yield it with its files.

    Args:
        source: The archive.
        max_bytes: Most bytes that its files may have together, unpacked.

    Raises:
        InvalidFileError: It cannot be read, is too large, or has a name that leads out of its folder.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            _check(entries, max_bytes)
            yield archive, entries
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"the file cannot be read as a zip file: {error}") from error


def _check(entries: list[zipfile.ZipInfo], max_bytes: int) -> None:
    if len(entries) > MAX_ENTRIES:
        raise InvalidFileError(f"the archive has {len(entries)} files; at most {MAX_ENTRIES} are allowed")
    total = 0
    seen: set[str] = set()
    for entry in entries:
        name = repr(shortened(entry.filename))
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if not path.parts:
            raise InvalidFileError(f"a file in the archive has the name {name}; give it a name")
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise InvalidFileError(f"the name {name} in the archive leads out of its folder; use relative names")
        if entry.filename in seen:
            raise InvalidFileError(f"the archive has two files with the name {name}; remove one")
        if entry.header_offset < 0:
            raise zipfile.BadZipFile(f"{name} is at {entry.header_offset}, before the archive begins")
        if entry.compress_type not in METHODS:
            raise InvalidFileError(
                f"{name} is compressed by the method {entry.compress_type}; only deflate and no compression are read"
            )
        seen.add(entry.filename)
        total += entry.file_size
        if total > max_bytes:
            raise InvalidFileError(
                f"the files up to {name} have {total} bytes unpacked; at most {max_bytes} are allowed"
            )
