"""An upload on its way: from the pieces of a request's body to a checked dataset folder."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Self

from service.data.facts import DatasetFacts
from service.data.formats import FileFormat, reader_of
from service.errors import FileTooLargeError, InvalidFileError


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
        facts = reader_of(self.format)(self._source, kept, self._max_bytes)
        facts.save(kept)
        return facts, kept
