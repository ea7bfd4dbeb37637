"""Reads a file by its URL, from the artifact store and the folders that the operator has allowed.

A URL is checked before anything is opened. What is read goes the way of every upload.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import unquote

import fsspec
from fsspec import AbstractFileSystem

from service.errors import FieldError, ForbiddenError, InvalidSpecError, UnavailableError

PIECE_BYTES: Final = 1 << 20
"""Bytes of a file that are in memory at once."""


class UrlSource:
    """Files in the artifact store and in allowed folders.

    Args:
        artifacts_url: fsspec URL of the artifact store.
        prefixes: fsspec URLs of allowed folders, separated by commas; None for none.
    """

    def __init__(self, artifacts_url: str, prefixes: str | None) -> None:
        self._more = [prefix.strip() for prefix in (prefixes or "").split(",") if prefix.strip()]
        self._urls = [artifacts_url, *self._more]

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
                while piece := file.read(PIECE_BYTES):
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
                if path.startswith(f"{root.rstrip('/')}/") and not {".", ".."} & set(steps):
                    return fs, path
        allowed = f"allows only {', '.join(self._more)}" if self._more else "is empty"
        raise ForbiddenError(
            f"{url} is not in the artifact store, and the setting WARPTUNE_DATASET_URL_PREFIXES {allowed}; "
            "upload the file, or ask the operator to allow its folder"
        )
