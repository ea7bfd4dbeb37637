"""Disks that run full: noticed before something is accepted, and told from other errors afterwards."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from service.artifacts import local_path
from service.errors import StorageFullError
from service.settings import Settings

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a write for which there is no room."""

POSTGRESQL_FULL: Final = "53100"
"""SQLSTATE of PostgreSQL, ``disk_full``."""


def written_folders(settings: Settings) -> dict[str, Path]:
    """Return the folders that the service writes to, by what they are for.

    These are a local artifact store, the folder of a SQLite file and that of temporary files.
    """
    folders = {"temporary files": Path(tempfile.gettempdir())}
    store, is_local = local_path(settings.artifacts_url)
    if is_local:
        folders["artifacts"] = store
    database = make_url(settings.database_url)
    if database.get_backend_name() == "sqlite" and database.database:
        folders["the database"] = Path(database.database).absolute().parent
    return folders


def require_room(settings: Settings) -> None:
    """Check that the disks that the service writes to have more than ``min_free_bytes`` left.

    Raises:
        StorageFullError: One has less. The message names it.
    """
    for what, folder in written_folders(settings).items():
        free = free_bytes(folder)
        if free < settings.min_free_bytes:
            raise StorageFullError(
                f"the disk of {what} has {free} bytes left, and WARPTUNE_MIN_FREE_BYTES is {settings.min_free_bytes}: "
                f"free some room in {nearest(folder)}, or lower the setting"
            )


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk on which a folder is, or will be made."""
    return shutil.disk_usage(nearest(folder)).free


def nearest(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def is_full(error: BaseException | None) -> bool:
    """Return whether an error says that a disk is full: one of a file, or of the database."""
    if isinstance(error, DBAPIError):
        cause = error.orig
        is_sqlite = isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode == sqlite3.SQLITE_FULL
        return is_sqlite or getattr(cause, "sqlstate", None) == POSTGRESQL_FULL
    return isinstance(error, OSError) and error.errno in FULL
