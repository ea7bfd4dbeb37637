# Files that belong to a job, under one fsspec URL: a local folder by default, an object store by setting. Nothing is
# ever pickled. A file appears whole or not at all.
"""The artifact store."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Final

import fsspec

ATTEMPTS: Final = 5
"""Times that a folder is deleted while others delete it too."""


class ArtifactStore:
    """A folder for each job.

    Args:
        url: fsspec URL of the top folder, such as ``warptune-data/artifacts`` or ``s3://bucket/prefix``.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.url_to_fs(url)

    def path(self, job_id: str, name: str) -> str:
        """Return the full URL of one file, for a process that opens it itself."""
        return str(self._fs.unstrip_protocol(f"{self._root}/jobs/{job_id}/{name}"))

    def put(self, job_id: str, name: str, content: bytes) -> str:
        """Store a file and return its URL; an older one of that name is replaced."""
        target = f"{self._root}/jobs/{job_id}/{name}"
        self._fs.makedirs(f"{self._root}/jobs/{job_id}", exist_ok=True)
        part = f"{target}.{secrets.token_hex(4)}.part"
        self._fs.pipe_file(part, content)
        self._fs.mv(part, target)
        return self.path(job_id, name)

    def delete_job(self, job_id: str) -> None:
        """Delete every file of a job; it is no error if there is none."""
        folder = f"{self._root}/jobs/{job_id}"
        for _ in range(ATTEMPTS):
            self._fs.invalidate_cache()
            if not self._fs.exists(folder):
                return
            with suppress(FileNotFoundError):  # another process deletes them too
                self._fs.rm(folder, recursive=True)

    def check(self) -> None:
        """Raise what the store raises when it cannot be written to."""
        self._fs.makedirs(self._root, exist_ok=True)


def read_artifact(url: str) -> bytes:
    """Return the content of a file of the store."""
    fs, path = fsspec.url_to_fs(url)
    return bytes(fs.cat_file(path))
