"""An upload on its way: from the pieces of a request's body to a checked dataset folder.

To add a file format, write a reader, and add a member to ``FileFormat`` and an entry to ``FORMATS``. A reader is a
function ``(source, folder, max_bytes) -> DatasetFacts``. It checks the file ``source``, which may take ``max_bytes``
unpacked, writes its data to ``folder`` in one of the layouts of ``facts.Layout``, and returns the facts about it. It
raises ``InvalidFileError`` for a file that cannot be used; the message names the row and the column.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Final, NamedTuple, Self

from service.data.facts import DatasetFacts
from service.errors import FileTooLargeError, InvalidFileError
from service.registry import import_object


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
    FileFormat.NPZ: Format(".npz", "service.data.read_zip:read_npz"),
    FileFormat.TEXT: Format(".txt", "service.data.read_text:read_text"),
    FileFormat.IMAGES: Format(".zip", "service.data.read_zip:read_images"),
}


def format_of(filename: str) -> FileFormat | None:
    """Return the format that the ending of a name stands for; None if it is unknown.

    >>> format_of("People.CSV")
    <FileFormat.CSV: 'csv'>
    """
    suffix = PurePath(filename.lower()).suffix
    return next((fmt for fmt, known in FORMATS.items() if known.suffix == suffix), None)


class Upload:
    """A file that arrives piece by piece. A context manager that deletes its temporary files at the end.

    Args:
        fmt: Format of the file.
        max_bytes: Most bytes that it may have, both as it comes and unpacked.
    """

    def __init__(self, fmt: FileFormat, max_bytes: int) -> None:
        self.format = fmt
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="warptune-upload-"))
        self._source = self._folder / "source"
        self._file = self._source.open("wb")
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        shutil.rmtree(self._folder)

    def write(self, piece: bytes) -> None:
        """Add a piece.

        Raises:
            FileTooLargeError: The file has too many bytes now.
        """
        self.size_bytes += len(piece)
        if self.size_bytes > self._max_bytes:
            raise FileTooLargeError(f"the file has more than {self._max_bytes} bytes, the most that is allowed")
        self._hash.update(piece)
        self._file.write(piece)

    @property
    def sha256(self) -> str:
        """Hash of what came in."""
        return self._hash.hexdigest()

    @property
    def dataset_id(self) -> str:
        """Id of the dataset. Files with the same content and format have the same id."""
        return f"ds-{hashlib.sha256(f'{self.format}:{self.sha256}'.encode()).hexdigest()[:32]}"

    def unpack(self) -> tuple[DatasetFacts, Path]:
        """Check the file; return what it holds, and its dataset folder.

        Cost: reads the file once or twice. A table is in memory as a whole; arrays and images piece by piece.

        Raises:
            InvalidFileError: The file cannot be used.
        """
        self._file.close()
        if not self.size_bytes:
            raise InvalidFileError("the file is empty: it has 0 bytes")
        kept = self._folder / "kept"
        kept.mkdir()
        read: Callable[[Path, Path, int], DatasetFacts] = import_object(FORMATS[self.format].reader)
        facts = read(self._source, kept, self._max_bytes)
        facts.save(kept)
        return facts, kept
