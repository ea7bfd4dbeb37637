# Files that belong to a job, under one fsspec URL: a local folder by default, an object store by setting. A file
# appears whole or not at all; what is in it is the business of those who write and read it.
"""The artifact store."""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

log = logging.getLogger(__name__)

DATA_FILE: Final = "data.npz"
"""Name of the artifact with a job's prepared split."""

TASK_FILE: Final = "task.npz"
"""Name of the artifact with the split of one task of a job on a family."""

START_P_FILE: Final = "start-p.safetensors"
"""Name of the artifact with a job's own copy of the P that its warm start is from."""

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

    def open(self, job_id: str, name: str) -> Any:
        """Open a file for reading, as a context manager. FileNotFoundError: there is none."""
        return self._fs.open(f"{self._root}/jobs/{job_id}/{name}", "rb")

    def size_bytes(self, job_id: str, name: str) -> int | None:
        """Return the size of a file; None if there is no such file."""
        self._fs.invalidate_cache()
        try:
            return int(self._fs.size(f"{self._root}/jobs/{job_id}/{name}"))
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

    def dataset_url(self, dataset_id: str) -> str:
        """Return the URL of the folder of an uploaded dataset."""
        return str(self._fs.unstrip_protocol(f"{self._root}/datasets/{dataset_id}"))

    def put_file(self, job_id: str, name: str, file: Path) -> str:
        """Store a copy of a local file and return its URL; an older one of that name is replaced."""
        url = self.path(job_id, name)
        write_file(url, file)
        return url

    def put_dataset(self, dataset_id: str, folder: Path) -> None:
        """Store the files of a local folder as those of a dataset."""
        try:
            _put_files(self.dataset_url(dataset_id), folder)
        except BaseException:
            self.delete_dataset(dataset_id)
            raise

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete every file of a dataset; it is no error if there is none."""
        self._delete(f"{self._root}/datasets/{dataset_id}")

    def _delete(self, folder: str) -> None:
        for _ in range(ATTEMPTS):
            self._fs.invalidate_cache()
            if not self._fs.exists(folder):
                return
            with suppress(FileNotFoundError):  # another process deletes them too
                self._fs.rm(folder, recursive=True)

    def check(self) -> None:
        """Raise what the store raises when it cannot be written to: a file is written and deleted."""
        probe = f"{self._root}/.ready-{secrets.token_hex(4)}"
        self._fs.makedirs(self._root, exist_ok=True)
        self._fs.pipe_file(probe, b"")
        self._fs.rm_file(probe)


def p_file(trial: int) -> str:
    """Return the name of the artifact with the P that a trial's config learned."""
    return f"p-{trial}.safetensors"


def write_artifact(url: str, content: bytes) -> None:
    """Write a file of the store, whole or not at all; an older one of that name is replaced."""
    _write(url, lambda fs, part: fs.pipe_file(part, content))


def write_file(url: str, file: Path) -> None:
    """Copy a local file to the store, whole or not at all; an older one of that name is replaced."""
    _write(url, lambda fs, part: fs.put_file(str(file), part))


def _put_files(url: str, folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        write_file(f"{url}/{file.name}", file)


def _write(url: str, fill: Callable[[Any, str], None]) -> None:
    fs, target = fsspec.url_to_fs(url)
    fs.makedirs(target.rpartition("/")[0], exist_ok=True)
    part = f"{target}.{secrets.token_hex(4)}.part"
    try:
        fill(fs, part)
        fs.mv(part, target)
    except BaseException:
        with suppress(Exception):
            fs.rm_file(part)
        raise


def read_artifact(url: str) -> bytes:
    """Return the content of a file of the store."""
    fs, path = fsspec.url_to_fs(url)
    return bytes(fs.cat_file(path))


def local_path(url: str) -> tuple[Path, bool]:
    """Return the path behind a URL, and whether it is one of this machine."""
    fs, path = fsspec.url_to_fs(url)
    return Path(path), isinstance(fs, LocalFileSystem)


def read_file(url: str, file: Path) -> None:
    """Copy a file of the store to a local one."""
    fs, path = fsspec.url_to_fs(url)
    fs.get_file(path, str(file))


def copy_folder(url: str, folder: Path) -> None:
    """Copy the files of a folder of the store into a local one."""
    fs, path = fsspec.url_to_fs(url)
    for file in fs.ls(path, detail=False):
        fs.get_file(file, str(folder / str(file).rpartition("/")[2]))


@contextmanager
def local_folder(url: str) -> Iterator[Path]:
    """Yield a local folder with the files of a folder of the store: that itself, or a copy that goes away."""
    path, is_local = local_path(url)
    if is_local:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="warptune-") as copy:
        copy_folder(url, Path(copy))
        yield Path(copy)
