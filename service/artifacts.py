"""The artifact store: the files of jobs and datasets, under one fsspec URL.

The URL is a local folder by default, and may be an object store. A file is written completely or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Final

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from service.accounts import Account
from service.temporary import KEPT_S

log = logging.getLogger(__name__)

DATA_FILE: Final = "data.npz"
"""Name of the artifact with a job's prepared split."""

TASK_FILE: Final = "task.npz"
"""Name of the artifact with the split of one task, of a job on a family."""

PREPROCESSING_FILE: Final = "preprocessing.json"
"""Name of the artifact with how rows become features, as learned from the training part of a job's prepared split."""

START_P_FILE: Final = "start-p.safetensors"
"""Name of the artifact with the job's own copy of the P that it starts from (warm start)."""

KINDS: Final = ("datasets", "jobs")
"""Folders of the store. Each has a folder for each dataset or job, by its id."""

CHECKPOINTS: Final = "checkpoints"
"""Folder in a job's folder that has the checkpoints, in one folder for each run."""

CHECKPOINT_NAME: Final = re.compile(r"step-(\d{9})\.ckpt")
"""Name of a checkpoint, with its step."""

PROBE_BYTES: Final = 4096
"""Size of the file that shows whether the store can be written to. A full disk still takes an empty one."""

COPIED_BYTES: Final = 1 << 20
"""How much of a file is copied at once."""

ATTEMPTS: Final = 5
"""How often a folder is deleted while other processes delete it too, or write to it."""


@contextmanager
def _logged(what: str, file: str) -> Iterator[None]:
    """Log an error of a store and go on; each kind of store raises its own errors."""
    try:
        yield
    except Exception:
        log.exception(what, extra={"file": file})


class ArtifactStore:
    """The files of jobs and datasets: one folder for each, below a URL such as ``s3://bucket/prefix``."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.url_to_fs(url)

    def path(self, job_id: str, name: str) -> str:
        """Return the full URL of a file, for another process to open."""
        return str(self._fs.unstrip_protocol(f"{self._root}/jobs/{job_id}/{name}"))

    def put(self, job_id: str, name: str, content: bytes | Path) -> str:
        """Store bytes or a copy of a local file, and return the URL. An older file of the same name is replaced."""
        url = self.path(job_id, name)
        write_artifact(url, content)
        return url

    def get(self, job_id: str, name: str) -> bytes | None:
        """Return the content of a file; None if there is no such file."""
        try:
            with self.open(job_id, name) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def open(self, job_id: str, name: str) -> BufferedIOBase:
        """Open a file for reading; use it in a ``with`` statement.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return _opened(self._fs, f"{self._root}/jobs/{job_id}/{name}")

    def size_bytes(self, job_id: str, name: str) -> int | None:
        """Return the size of a file; None if there is no such file."""
        self._fs.invalidate_cache()
        try:
            with self.open(job_id, name) as file:
                return file.seek(0, os.SEEK_END)
        except FileNotFoundError:
            return None

    def sha256(self, job_id: str, name: str) -> str | None:
        """Return the hash of a file; None if there is no such file."""
        try:
            return file_sha256(f"{self._root}/jobs/{job_id}/{name}", self._fs)
        except FileNotFoundError:
            return None

    def p_url(self, job_id: str, trial: int) -> str:
        """Return the URL of the P that a trial's config has learned."""
        return self.path(job_id, p_file(trial))

    def delete_job(self, job_id: str) -> None:
        """Delete all files of a job, if it has any."""
        self._delete(f"{self._root}/jobs/{job_id}")

    def job_bytes(self, job_id: str) -> int | None:
        """Return the size of all files of a job; None, with a warning in the log, if the store cannot be reached."""
        self._fs.invalidate_cache()
        try:
            return int(self._fs.du(f"{self._root}/jobs/{job_id}"))
        except FileNotFoundError:
            return 0
        except Exception:  # each kind of store raises its own errors
            log.warning("the files of a job cannot be measured", extra={"job": job_id}, exc_info=True)
            return None

    def give(self, job_id: str, account: Account | None) -> None:
        """Let a user of this machine write to the folder of a job; None for the user who can already."""
        if account is not None and isinstance(self._fs, LocalFileSystem):
            account.give(Path(self._root) / "jobs" / job_id)

    def checkpoint_url(self, job_id: str, run_name: str) -> str:
        """Return the URL of the folder with the checkpoints of one run."""
        return self.path(job_id, f"{CHECKPOINTS}/{run_name}")

    def delete_checkpoints(self, job_id: str, run_name: str = "") -> None:
        """Delete the checkpoints of one run, or of all runs of a job.

        If the store cannot be reached, this only logs a warning: the files are deleted with the job at the latest.
        """
        try:
            self._delete(f"{self._root}/jobs/{job_id}/{CHECKPOINTS}/{run_name}".rstrip("/"))
        except Exception:  # each kind of store raises its own errors
            log.warning("checkpoints are left behind", extra={"job": job_id, "run": run_name}, exc_info=True)

    def dataset_url(self, dataset_id: str) -> str:
        """Return the URL of the folder of an uploaded dataset."""
        return str(self._fs.unstrip_protocol(f"{self._root}/datasets/{dataset_id}"))

    @contextmanager
    def staged_dataset(self, dataset_id: str, folder: Path) -> Iterator[Callable[[], None]]:
        """Copy the files of a local folder into the store; yield what makes them the files of a dataset.

        Copying may take long, and touches no file of the dataset. The rest takes a moment: call it while nobody else
        changes the dataset. Copies that were not put in their place are deleted at the end.
        """
        home, token = f"{self._root}/datasets/{dataset_id}", secrets.token_hex(4)
        staged = {f"{home}.{token}.{file.name}.part": file for file in sorted(folder.iterdir())}

        def put() -> None:
            self._fs.makedirs(home, exist_ok=True)
            try:
                for part, file in staged.items():
                    self._fs.mv(part, f"{home}/{file.name}")
            except BaseException:
                self.delete_dataset(dataset_id)
                raise

        try:
            self._fs.makedirs(f"{self._root}/datasets", exist_ok=True)
            for part, file in staged.items():
                self._fs.put_file(str(file), part)
            yield put
        finally:
            for part in staged:
                with suppress(Exception):  # it is in its place, or was not written; each kind of store has its errors
                    self._fs.rm_file(part)

    def dataset_bytes(self, dataset_id: str) -> int:
        """Return the size of all files of a dataset; 0 if it has none."""
        folder = f"{self._root}/datasets/{dataset_id}"
        self._fs.invalidate_cache()
        return int(self._fs.du(folder)) if self._fs.exists(folder) else 0

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete all files of a dataset, if it has any."""
        self._delete(f"{self._root}/datasets/{dataset_id}")

    @contextmanager
    def taken_dataset(self, dataset_id: str) -> Iterator[Callable[[], None]]:
        """Yield what takes the files of a dataset out of its folder. Call it while nobody else changes the dataset.

        That takes a moment, or in an object store a copy. At the end the files are deleted, which may take long, or put
        back on an exception. If the process is killed before, :meth:`sweep` deletes them from a local store.
        """
        home, token = f"{self._root}/datasets/{dataset_id}", secrets.token_hex(4)
        taken: dict[str, str] = {}

        def take() -> None:
            self._fs.invalidate_cache()
            for path in self._fs.ls(home, detail=False) if self._fs.exists(home) else ():
                part = f"{home}.{token}.{str(path).rpartition('/')[2]}.part"
                self._fs.mv(path, part)
                taken[part] = path
                if isinstance(self._fs, LocalFileSystem):
                    os.utime(part)  # else another process takes an old file for one that is left over
            self._delete(home)

        try:
            yield take
        except BaseException:
            if taken:
                self._fs.makedirs(home, exist_ok=True)
            for part, path in taken.items():
                with _logged("a file of a dataset that was not deleted is lost", part):
                    self._fs.mv(part, path)
            raise
        for part in taken:
            with _logged("a file of a deleted dataset is left behind", part):
                self._fs.rm_file(part)

    def _delete(self, folder: str) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            self._fs.invalidate_cache()
            if not self._fs.exists(folder):
                return
            try:
                self._fs.rm(folder, recursive=True)
            except FileNotFoundError:  # another process is deleting them too
                continue
            except OSError as error:  # not empty: a late slot has just written a checkpoint
                if error.errno != errno.ENOTEMPTY or attempt == ATTEMPTS:
                    raise

    def sweep(self) -> None:
        """Delete what killed processes were writing to a local store, once it is a day old."""
        if not isinstance(self._fs, LocalFileSystem):
            return  # an object store shows no unfinished file
        folder = Path(self._root)
        for path in [*folder.rglob("*.part"), *folder.glob(".ready-*")]:
            with suppress(OSError):  # another process deletes it too
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()

    def files(self) -> list[str]:
        """Return the names of all finished files of jobs and datasets, such as ``jobs/ID/data.npz``.

        Checkpoints are left out: they change while runs go on, and a run without one starts again.
        """
        self._fs.invalidate_cache()
        begin = len(self._root.rstrip("/")) + 1
        found = [str(path)[begin:] for kind in KINDS for path in self._fs.find(f"{self._root.rstrip('/')}/{kind}")]
        return sorted(name for name in found if f"/{CHECKPOINTS}/" not in name and not name.endswith(".part"))

    def url_of(self, name: str) -> str:
        """Return the full URL of a file, by its name in :meth:`files`."""
        return str(self._fs.unstrip_protocol(f"{self._root.rstrip('/')}/{name}"))

    def age_s(self, name: str) -> float:
        """Return how many seconds ago a file was written; 0 if it is gone, or the store does not say when."""
        try:
            written: datetime = self._fs.modified(f"{self._root.rstrip('/')}/{name}")
        except (FileNotFoundError, NotImplementedError):
            return 0.0
        return (datetime.now(UTC) - written.astimezone(UTC)).total_seconds()

    def total_bytes(self) -> int:
        """Return the size of all files. It looks at each, so it takes long with many."""
        self._fs.invalidate_cache()
        return int(self._fs.du(self._root)) if self._fs.exists(self._root) else 0

    def check(self) -> None:
        """Write and delete a file, so that a store that cannot be written to raises its error."""
        probe = f"{self._root}/.ready-{secrets.token_hex(4)}"
        self._fs.makedirs(self._root, exist_ok=True)
        self._fs.pipe_file(probe, bytes(PROBE_BYTES))
        self._fs.rm_file(probe)


def checkpoint_steps(url: str) -> list[int]:
    """Return the steps of the checkpoints in a folder of the store; an empty list if the folder does not exist."""
    fs, folder = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    if not fs.exists(folder):
        return []
    names = (str(path).rpartition("/")[2] for path in fs.ls(folder, detail=False))
    return [int(match[1]) for match in map(CHECKPOINT_NAME.fullmatch, names) if match]


def split_file(seed: int) -> str:
    """Return the name of the artifact with the split that ``seed`` draws, for a seed other than the job's."""
    return f"data-{seed}.npz"


def p_file(trial: int) -> str:
    """Return the name of the artifact with the P that a trial's config has learned."""
    return f"p-{trial}.safetensors"


def weights_file(trial: int) -> str:
    """Return the name of the artifact with the weights that were trained with a trial's config."""
    return f"weights-{trial}.safetensors"


def write_artifact(url: str, content: bytes | Path) -> None:
    """Write bytes or a copy of a local file to the store. An older file of the same name is replaced."""
    fs, target = fsspec.url_to_fs(url)
    fs.makedirs(target.rpartition("/")[0], exist_ok=True)
    part = f"{target}.{secrets.token_hex(4)}.part"
    try:
        if isinstance(content, Path):
            fs.put_file(str(content), part)
        else:
            fs.pipe_file(part, content)
        fs.mv(part, target)
    except BaseException:
        with suppress(Exception):
            fs.rm_file(part)
        raise


def is_data_gone(url: str, kept: str) -> bool:
    """Return whether the data of a run, at this URL, is gone, as its job has been deleted.

    If so, a warning says that ``kept``, which the run would write now, is not kept.
    """
    fs, path = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    if fs.exists(path):
        return False
    log.warning(f"no {kept}: the data of the run is gone", extra={"url": url})
    return True


def read_artifact(url: str) -> bytes:
    """Return the content of a file in the store."""
    with _opened(*fsspec.url_to_fs(url)) as file:
        return file.read()


def _opened(fs: AbstractFileSystem, path: str) -> BufferedIOBase:
    """Open a file for reading. A link or a pipe is not read: a slot of another user may have put it there.

    Raises:
        FileNotFoundError: The file does not exist, or is not a regular file.
    """
    if not isinstance(fs, LocalFileSystem):
        opened: BufferedIOBase = fs.open(path, "rb")
        return opened
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(f"{path} is a link") from error
        raise
    file = os.fdopen(number, "rb")
    if not stat.S_ISREG(os.fstat(number).st_mode):
        file.close()
        raise FileNotFoundError(f"{path} is not a regular file")
    return file


def file_sha256(path: str, fs: AbstractFileSystem | None = None) -> str:
    """Return the hash of a file, by default a local one.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with _opened(fs or LocalFileSystem(), path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_file(url: str, target: Path) -> str:
    """Copy a file of the store to a new local file, and return its SHA-256.

    Raises:
        FileNotFoundError: There is no such file.
    """
    digest = hashlib.sha256()
    with _opened(*fsspec.url_to_fs(url)) as source, target.open("xb") as copy:
        while piece := source.read(COPIED_BYTES):
            digest.update(piece)
            copy.write(piece)
    return digest.hexdigest()


def local_path(url: str) -> tuple[Path, bool]:
    """Return the path in a URL, and whether it is on this machine."""
    fs, path = fsspec.url_to_fs(url)
    return Path(path), isinstance(fs, LocalFileSystem)


def read_file(url: str, file: Path) -> None:
    """Copy a file from the store to a local path."""
    fs, path = fsspec.url_to_fs(url)
    fs.get_file(path, str(file))


@contextmanager
def local_folder(url: str) -> Iterator[Path]:
    """Yield a local folder with the files of a folder in the store: the folder itself, or a temporary copy."""
    path, is_local = local_path(url)
    if is_local:
        yield path
        return
    fs, folder = fsspec.url_to_fs(url)
    with tempfile.TemporaryDirectory(prefix="warptune-dataset-") as copy:
        for file in fs.ls(folder, detail=False):
            fs.get_file(file, f"{copy}/{str(file).rpartition('/')[2]}")
        yield Path(copy)
