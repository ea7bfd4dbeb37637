"""A folder of its own for the temporary files of a process, and an end to those that killed processes have left."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

PREFIX: Final = "warptune-process-"
"""Beginning of the name of a process's folder. The kernel frees the lock in it when the process dies."""

LOCK: Final = "lock"

OURS: Final = re.compile(
    r"warptune-(check|data|dataset|p|predict|question|ray|replay|result|slots|task|timed|upload|user-code)-\w{8}"
)
"""Folders of processes without a folder of their own, such as commands and Ray actors."""

KEPT_S: Final = 86_400.0
"""Age at which they are deleted, and files of the artifact store that were never finished."""


@contextmanager
def own_folder() -> Iterator[Path]:
    """Put the temporary files of this process and its children into one folder, which is deleted at the end.

    First it deletes what killed processes have left. Ray keeps its files in the common folder, where its nodes look for
    each other.
    """
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    parent = Path(tempfile.gettempdir())
    if parent.name.startswith(PREFIX):  # the process that started this one has set it
        parent = parent.parent
    sweep(parent)
    os.environ.setdefault("RAY_TMPDIR", str(parent))
    with held_folder(parent) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop("TMPDIR")
            tempfile.tempdir = before[1]
            if before[0] is not None:
                os.environ["TMPDIR"] = before[0]


@contextmanager
def held_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder, which is deleted at the end, or by the next :func:`sweep` after this process has died.

    ``parent`` is where it is made; None is the common folder for temporary files.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with FileLock(folder / f"new-{LOCK}", timeout=0) as lock:
            # It gets its name once it is held: for another process that starts now, one that is free is of a dead one.
            os.rename(lock.lock_file, folder / LOCK)
            yield folder
    finally:
        if any(folder.glob("pymp-*")):  # multiprocessing deletes its own folder when this process ends
            Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=-200)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Delete the folders of processes that have died, and old ones of commands that did."""
    for folder in parent.glob("warptune-*"):
        try:
            if folder.name.startswith(PREFIX) and (folder / LOCK).exists():
                with FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder)
            elif folder.name.startswith(PREFIX) or OURS.fullmatch(folder.name):
                if time.time() - folder.stat().st_mtime < KEPT_S:
                    continue
                shutil.rmtree(folder)
            else:
                continue
        except Timeout:  # its process lives
            continue
        except OSError:  # another user's, or another process deletes it too
            log.info("temporary files are left behind", extra={"folder": str(folder)}, exc_info=True)
            continue
        log.info("temporary files deleted", extra={"folder": str(folder)})
