"""An upload on its way: from the pieces of a request's body, or of a file at a URL, to a checked dataset folder.

To add a file format, write a reader, and add a member to ``FileFormat`` and an entry to ``FORMATS``. A reader is a
function ``(source, folder, max_bytes) -> DatasetFacts``; with options it takes a ``Reading`` too. It checks the file
``source``, which may take ``max_bytes`` unpacked, writes its data to ``folder`` in one of the layouts of
``facts.Layout``, and returns the facts about it. It raises ``InvalidFileError`` for a file that cannot be used; the
message names the row and the column.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Final, NamedTuple, Self
from urllib.parse import unquote

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from service.data.facts import DatasetFacts, Reading
from service.data.read_text import CHUNK_BYTES
from service.errors import (
    FieldError,
    FileTooLargeError,
    ForbiddenError,
    InvalidFileError,
    InvalidSpecError,
    UnavailableError,
    conflict,
)
from service.registry import import_object
from service.settings import LOCAL_PROJECT

READING: Final = Reading()
"""Leaves everything to the reader."""


class FileFormat(StrEnum):
    """Format of an uploaded file."""

    CSV = "csv"
    EXCEL = "excel"
    PARQUET = "parquet"
    FEATHER = "feather"
    NPZ = "npz"
    TEXT = "text"
    IMAGES = "images"


class Format(NamedTuple):
    """The endings of a file's name, the reader as ``module:function``, imported when it is needed, and its options.

    ``options`` are the fields of ``Reading`` that a user may choose; the reader gets a ``Reading`` if it has some.
    """

    suffixes: tuple[str, ...]
    reader: str
    options: tuple[str, ...] = ()


TYPED: Final = ("decimal", "thousands", "na_values")
"""Options of a table whose file says what separates the cells."""

FORMATS: Final[Mapping[FileFormat, Format]] = {
    FileFormat.CSV: Format(
        (".csv", ".tsv", ".tab", ".psv", ".csv.gz", ".tsv.gz"),
        "service.data.read_csv:read_csv",
        ("encoding", "delimiter", "header", *TYPED),
    ),
    FileFormat.EXCEL: Format((".xlsx",), "service.data.read_table:read_excel", ("header", *TYPED)),
    FileFormat.PARQUET: Format((".parquet",), "service.data.read_table:read_parquet", TYPED),
    FileFormat.FEATHER: Format((".feather", ".arrow"), "service.data.read_table:read_feather", TYPED),
    FileFormat.NPZ: Format((".npz",), "service.data.read_zip:read_npz"),
    FileFormat.TEXT: Format((".txt",), "service.data.read_text:read_text"),
    FileFormat.IMAGES: Format((".zip",), "service.data.read_zip:read_images", ("image_size",)),
}


def format_of(filename: str) -> FileFormat | None:
    """Return the format that the ending of a name stands for; None if it is unknown.

    >>> format_of("People.CSV")
    <FileFormat.CSV: 'csv'>
    """
    name = PurePath(filename.lower()).name
    return next((fmt for fmt, known in FORMATS.items() if name.endswith(known.suffixes)), None)


def read_file(fmt: FileFormat, source: Path, folder: Path, max_bytes: int, reading: Reading) -> DatasetFacts:
    """Check a file, write what it holds to an empty dataset folder, and return the facts about it.

    Cost: reads the file once to three times. A table is in memory as a whole; arrays and images piece by piece.

    Raises:
        InvalidFileError: The file cannot be used.
    """
    read: Callable[..., DatasetFacts] = import_object(FORMATS[fmt].reader)
    facts = read(source, folder, max_bytes, *((reading,) if FORMATS[fmt].options else ()))
    facts.save(folder)
    return facts


ReadFile = Callable[[FileFormat, Path, Path, int, Reading], DatasetFacts]
"""``read_file``, or the same in another process."""


class Upload:
    """A file that arrives piece by piece. A context manager that deletes its temporary files at the end.

    The file may have ``max_bytes``, both as it comes and unpacked. ``reading`` says how to read a table.

    Raises:
        InvalidSpecError: The format does not have an option of ``reading``.
    """

    def __init__(self, fmt: FileFormat, max_bytes: int, reading: Reading = READING) -> None:
        self.format = fmt
        self._max_bytes = max_bytes
        self._reading = reading
        for option, value in asdict(reading).items():
            if value is not None and option not in FORMATS[fmt].options:
                raise InvalidSpecError(conflict(option, value, f"must be left out for a file of format {fmt}"))
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="warptune-upload-"))
        self._source = self._folder / "source"
        self._file = self._source.open("wb")
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._file.close()
        finally:
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

    def dataset_id(self, project: str) -> str:
        """Return the id of the dataset: the same for the same content, format, way of reading and project."""
        parts = [self.format, self.sha256, *([] if project == LOCAL_PROJECT else [project])]
        if given := {name: value for name, value in asdict(self._reading).items() if value is not None}:
            parts.append(json.dumps(given))
        return f"ds-{hashlib.sha256(':'.join(parts).encode()).hexdigest()[:32]}"

    def unpack(self, read: ReadFile = read_file) -> tuple[DatasetFacts, Path]:
        """Read the file with ``read``; return what it holds, and its dataset folder.

        Raises:
            InvalidFileError: The file cannot be used.
        """
        self._file.close()
        if not self.size_bytes:
            raise InvalidFileError("the file is empty: it has 0 bytes")
        kept = self._folder / "kept"
        kept.mkdir()
        return read(self.format, self._source, kept, self._max_bytes, self._reading), kept


class UrlSource:
    """Files in the artifact store and in allowed folders. A URL is checked before anything is opened.

    Args:
        artifacts_url: fsspec URL of the artifact store; None for a project that may not read the files of others there.
        prefixes: fsspec URLs of allowed folders, separated by commas; None for none.
    """

    def __init__(self, artifacts_url: str | None, prefixes: str | None) -> None:
        self._more = [prefix.strip() for prefix in (prefixes or "").split(",") if prefix.strip()]
        self._urls = [*([artifacts_url] if artifacts_url else []), *self._more]

    def read(self, url: str) -> Iterator[bytes]:
        """Yield the content of a file, piece by piece.

        Raises:
            InvalidSpecError: The URL is malformed, or there is no such file.
            ForbiddenError: The file is in none of the folders.
            UnavailableError: The store cannot be read now.
        """
        fs, path = self._find(url)
        try:
            with fs.open(path, "rb") as file:
                while piece := file.read(CHUNK_BYTES):
                    yield piece
        except (FileNotFoundError, IsADirectoryError) as error:
            raise InvalidSpecError(FieldError("url", url, "must be the URL of a file; there is none")) from error
        except Exception as error:  # stores raise what they like
            raise UnavailableError(f"{url} cannot be read: {type(error).__name__}: {error}") from error

    def _find(self, url: str) -> tuple[AbstractFileSystem, str]:
        scheme, mark, rest = url.partition("://")
        if not mark or not rest or not scheme.isalnum():
            raise InvalidSpecError(
                FieldError("url", url, "must be a URL with a scheme, such as s3://bucket/people.csv")
            )
        for folder in self._urls:
            fs, root = fsspec.url_to_fs(folder)
            schemes: Sequence[str] = [fs.protocol] if isinstance(fs.protocol, str) else fs.protocol
            if scheme in schemes:
                path = str(fs._strip_protocol(url))
                steps = unquote(path).replace("\\", "/").split("/")
                if path.startswith(f"{root.rstrip('/')}/") and not {".", ".."} & set(steps) and _stays(fs, path, root):
                    return fs, path
        allowed = f"allows only {', '.join(self._more)}" if self._more else "is empty"
        raise ForbiddenError(
            f"{url} is not in a folder that you may read: the setting WARPTUNE_DATASET_URL_PREFIXES {allowed}; "
            "upload the file, or ask the operator to allow its folder"
        )


def _stays(fs: AbstractFileSystem, path: str, root: str) -> bool:
    """Return whether no symbolic link leads out of a folder on this machine; other stores have none."""
    return not isinstance(fs, LocalFileSystem) or Path(path).resolve().is_relative_to(Path(root).resolve())
