# From the pieces of a request's body to a file that is known, hashed and checked, in a folder that goes away with it.
# Knows the kinds of files; nothing of HTTP and SQL.
"""An upload on its way."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Self

from service.data.facts import DatasetFacts
from service.errors import FileTooLargeError, InvalidFileError


class FileFormat(StrEnum):
    """Kind of an uploaded file."""

    CSV = "csv"
    PARQUET = "parquet"
    NPZ = "npz"
    TEXT = "text"
    IMAGES = "images"


SUFFIXES = {
    ".csv": FileFormat.CSV,
    ".parquet": FileFormat.PARQUET,
    ".npz": FileFormat.NPZ,
    ".txt": FileFormat.TEXT,
    ".zip": FileFormat.IMAGES,
}
"""Ending of a file's name -> what it is."""


class Upload:
    """One file that comes in piece by piece; a context manager, at whose end nothing of it is left.

    Args:
        fmt: What it is.
        max_bytes: Most bytes that it may have, as it comes and unpacked.
    """

    def __init__(self, fmt: FileFormat, max_bytes: int) -> None:
        self._format, self._max_bytes = fmt, max_bytes
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="warptune-upload-"))
        self.source = self._folder / "source"
        self._file = self.source.open("wb")
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        shutil.rmtree(self._folder)

    def write(self, piece: bytes) -> None:
        """Add a piece.

        Raises:
            FileTooLargeError: It is one byte too many.
        """
        self.size_bytes += len(piece)
        if self.size_bytes > self._max_bytes:
            raise FileTooLargeError(f"the file has more than {self._max_bytes} bytes")
        self._hash.update(piece)
        self._file.write(piece)

    @property
    def sha256(self) -> str:
        """Hash of what came in."""
        return self._hash.hexdigest()

    @property
    def dataset_id(self) -> str:
        """Id of the dataset: the same content, read as the same kind of file, has the same."""
        return f"ds-{hashlib.sha256(f'{self._format}:{self.sha256}'.encode()).hexdigest()[:32]}"

    def unpack(self) -> tuple[DatasetFacts, Path]:
        """Check what came in; return what it holds, and the folder with the files to keep.

        Cost: reads the file once or twice; a table is in memory as a whole, arrays and images piece by piece.

        Raises:
            InvalidFileError: It cannot be used.
        """
        self._file.close()
        if not self.size_bytes:
            raise InvalidFileError("the file is empty: it has 0 bytes")
        kept = self._folder / "kept"
        kept.mkdir()
        if self._format in (FileFormat.CSV, FileFormat.PARQUET):
            from service.data import tables  # numpy, pyarrow and pillow are loaded with the first upload only

            reader = tables.read_csv if self._format is FileFormat.CSV else tables.read_parquet
        elif self._format is FileFormat.TEXT:
            from service.data.text import read_text as reader
        elif self._format is FileFormat.NPZ:
            from service.data.arrays import read_npz as reader
        else:
            from service.data.images import read_images as reader
        return reader(self.source, kept, self._max_bytes), kept
