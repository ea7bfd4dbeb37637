# Files that belong to a job, under one fsspec URL: a local folder by default, an object store by setting. Nothing is
# ever pickled. A file appears whole or not at all.
"""The artifact store."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from typing import Final

import fsspec

log = logging.getLogger(__name__)

DATA_FILE: Final = "data.npz"
"""Name of the artifact with a job's prepared split."""

CHECKPOINTS: Final = "checkpoints"
"""Folder of a job with a folder for each of its runs."""

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
        url = self.path(job_id, name)
        write_artifact(url, content)
        return url

    def get(self, job_id: str, name: str) -> bytes | None:
        """Return the content of a file; None if there is no such file."""
        try:
            return read_artifact(self.path(job_id, name))
        except FileNotFoundError:
            return None

    def p_url(self, job_id: str, trial: int) -> str:
        """Return the URL of the P that a trial's config learned."""
        return self.path(job_id, p_file(trial))

    def delete_job(self, job_id: str) -> None:
        """Delete every file of a job; it is no error if there is none."""
        self._delete(f"{self._root}/jobs/{job_id}")

    def checkpoint_url(self, job_id: str, run_name: str) -> str:
        """Return the URL of the folder of one run's checkpoints, which belong to that run alone."""
        return self.path(job_id, f"{CHECKPOINTS}/{run_name}")

    def delete_checkpoints(self, job_id: str, run_name: str = "") -> None:
        """Delete the checkpoints of a run that has ended, or of every run of a job that has.

        A store that cannot be reached costs a warning: the files go with the job at the latest.
        """
        try:
            self._delete(f"{self._root}/jobs/{job_id}/{CHECKPOINTS}/{run_name}".rstrip("/"))
        except Exception:  # stores raise what they like
            log.warning("checkpoints are left behind", extra={"job": job_id, "run": run_name}, exc_info=True)

    def _delete(self, folder: str) -> None:
        for _ in range(ATTEMPTS):
            self._fs.invalidate_cache()
            if not self._fs.exists(folder):
                return
            with suppress(FileNotFoundError):  # another process deletes them too
                self._fs.rm(folder, recursive=True)

    def check(self) -> None:
        """Raise what the store raises when it cannot be written to."""
        self._fs.makedirs(self._root, exist_ok=True)


def p_file(trial: int) -> str:
    """Return the name of the artifact with the P that a trial's config learned."""
    return f"p-{trial}.safetensors"


def write_artifact(url: str, content: bytes) -> None:
    """Write a file of the store, whole or not at all; an older one of that name is replaced."""
    fs, target = fsspec.url_to_fs(url)
    fs.makedirs(target.rpartition("/")[0], exist_ok=True)
    part = f"{target}.{secrets.token_hex(4)}.part"
    try:
        fs.pipe_file(part, content)
        fs.mv(part, target)
    except BaseException:
        with suppress(Exception):
            fs.rm_file(part)
        raise


def read_artifact(url: str) -> bytes:
    """Return the content of a file of the store."""
    fs, path = fsspec.url_to_fs(url)
    return bytes(fs.cat_file(path))
