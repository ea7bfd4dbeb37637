"""Makes backups of a running service, and restores them into an empty one.

A backup is a folder: the database as one SQLite file, whatever the service uses, the files of the artifact store, and a
manifest with the hash of each. Nothing has to stop while it is made, and it is made completely or not at all.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import delete, func, select, update

from service.artifacts import ArtifactStore, copy_file, file_sha256, write_artifact
from service.backup.tables import copy_rows, create_all, delete_studies, in_file, snapshot
from service.db.models import ApiKey, DatasetRow, Job, Trial
from service.db.session import Database, require_current_tables
from service.db.studies import require_current_studies
from service.errors import BackupError, DatabaseVersionError
from service.ledger import audit
from service.settings import Settings
from service.states import ACTIVE_JOB, ENDED_JOB
from service.version import VERSION

MANIFEST: Final = "manifest.json"
LEDGER: Final = "ledger.db"
FILES: Final = "artifacts"

COUNTED: Final = {"jobs": Job, "trials": Trial, "datasets": DatasetRow}
"""Tables whose rows the manifest counts."""

FORMAT: Final = 1
"""Version of the form of a backup. One with a higher version cannot be read."""

ATTEMPTS: Final = 3
"""How often a backup is begun again because a job that had ended went on meanwhile."""


def make(settings: Settings, folder: Path) -> dict[str, Any]:
    """Make a backup of a service in a new folder, while it runs, and return its manifest.

    The files of a job are copied after the database. So those of a running job may be newer, which its next worker puts
    right; a job that was extended or tried again meanwhile would not fit its files, so the backup is begun again.

    Raises:
        BackupError: The folder cannot be replaced or is not empty, or jobs that had ended went on again and again.
        DatabaseVersionError: The database has the tables of another version.
        OSError: It cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # the copy takes its place, and cannot take that of a link
    for what, is_so in (("the current folder", folder == Path.cwd()), ("a mount point", folder.is_mount())):
        if is_so:
            raise BackupError(f"{folder} is {what}: name a new folder in it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackupError(f"{folder} is there already, and not an empty folder: name a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    store = ArtifactStore(settings.artifacts_url)
    try:
        with closing(Database(settings.database_url)) as database:
            require_current_tables(database)
            require_current_studies(database)
            for _ in range(ATTEMPTS):
                part.mkdir()
                manifest = _copy(database, store, part)
                if manifest is not None:
                    part.rename(folder)
                    audit.record_command(database, "backup", str(folder))
                    return manifest
                shutil.rmtree(part)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    raise BackupError(f"in each of {ATTEMPTS} attempts a job that had ended was extended or tried again; try it later")


def _copy(database: Database, store: ArtifactStore, part: Path) -> dict[str, Any] | None:
    """Copy everything and return the manifest; None if the files of a job may not fit its rows."""
    with in_file(part / LEDGER) as copy:
        with snapshot(database) as source, copy.engine.begin() as target:
            copy_rows(source, target)
        before, datasets = _jobs(copy), _datasets(copy)
        sums = dict(_copy_files(store, {*before, *datasets}, part))
        after = _jobs(database)
        if any(after.get(job_id, row) != row for job_id, row in before.items() if row[0] in ENDED_JOB):
            return None
        gone = before.keys() - after.keys(), datasets - _datasets(database)
        with copy.write() as session:  # what was deleted meanwhile may have lost files
            session.execute(delete(Job).where(Job.id.in_(gone[0])))
            session.execute(delete(DatasetRow).where(DatasetRow.id.in_(gone[1])))
        delete_studies(copy, gone[0])
        counts = _counts(copy)
    for owner in set().union(*gone):
        for kind in ("jobs", "datasets"):
            shutil.rmtree(part / FILES / kind / owner, ignore_errors=True)
        sums = {name: digest for name, digest in sums.items() if name.split("/")[2] != owner}
    manifest = {
        "format": FORMAT,
        "warptune": VERSION,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "database": database.url.get_backend_name(),
        **counts,
        "files": {LEDGER: file_sha256(str(part / LEDGER)), **sums},
    }
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    if wrong := _wrong_counts(part / LEDGER, manifest):
        raise BackupError("\n  ".join(["the backup is not complete:", *wrong]))
    return manifest


def _counts(database: Database) -> dict[str, int]:
    with database.read() as session:
        return {name: session.query(table).count() for name, table in COUNTED.items()}


def _jobs(database: Database) -> dict[str, tuple[Any, ...]]:
    """Return what changes when a job that had ended goes on, by its id."""
    with database.read() as session:
        query = select(Job.id, Job.state, Job.looks, Job.lease_token, Job.finished_at)
        return {job_id: tuple(row) for job_id, *row in session.execute(query)}


def _datasets(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(DatasetRow.id)))


def _copy_files(store: ArtifactStore, owners: set[str], part: Path) -> Iterable[tuple[str, str]]:
    """Copy the files of jobs and datasets, and yield their names in the backup and their hashes."""
    for name in store.files():
        if name.split("/")[1] in owners:
            target = part / FILES / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield f"{FILES}/{name}", copy_file(store.url_of(name), target)
            except FileNotFoundError:  # its job or dataset is being deleted
                target.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a backup.

    Raises:
        BackupError: There is none, or it is not one that this version can read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        newer = manifest["format"] > FORMAT
        _ = manifest["files"].items(), manifest["warptune"], manifest["made_at"], *map(manifest.__getitem__, COUNTED)
    except FileNotFoundError:
        raise BackupError(f"{folder} is not a backup: it has no {MANIFEST}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackupError(f"{folder / MANIFEST} cannot be read as the manifest of a backup: {error}") from error
    if newer:
        raise BackupError(
            f"{folder} was made by warptune {manifest['warptune']}, which is newer than this one, {VERSION}"
        )
    return dict(manifest)


def damage(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing in a backup that is missing, changed or not in its manifest."""
    wrong = []
    for name, digest in manifest["files"].items():
        try:
            if file_sha256(str(folder / name)) != digest:
                wrong.append(f"{name} has changed since the backup was made")
        except OSError:
            wrong.append(f"{name} is missing or cannot be read")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    wrong += [f"{name} is not of the backup" for name in sorted(found - manifest["files"].keys() - {MANIFEST})]
    return wrong or _wrong_counts(folder / LEDGER, manifest)


def _wrong_counts(ledger: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return a line for each table in the database of a backup that has more or fewer rows than its manifest says."""
    try:
        with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            counts = {
                name: connection.execute(str(select(func.count()).select_from(table))).fetchone()[0]
                for name, table in COUNTED.items()
            }
    except sqlite3.Error as error:
        return [f"{ledger.name} cannot be read: {error}"]
    return [
        f"{ledger.name} has {count} {name}, not {manifest[name]} as the manifest says"
        for name, count in counts.items()
        if count != manifest[name]
    ]


def restore(settings: Settings, folder: Path) -> dict[str, Any]:
    """Put a backup into an empty database and an empty artifact store, and return its manifest.

    The service gets a new identity, so a process of the old one does not take it for its own. The leases of running
    jobs are over: a worker goes on with them at once.

    Raises:
        BackupError: The backup is damaged or of a newer version, or the database or the store is not empty. Nothing
            has been written then.
        DatabaseVersionError: The database has tables that this version does not know.
        OSError: The store cannot be written. What was written is deleted, after this and any other error.
        SQLAlchemyError: The database cannot be written.
    """
    manifest = read_manifest(folder)
    if wrong := damage(folder, manifest):
        raise BackupError("\n  ".join([f"{folder} is damaged:", *wrong[:10]]))
    store = ArtifactStore(settings.artifacts_url)
    with tempfile.TemporaryDirectory(prefix="warptune-data-") as scratch, ExitStack() as opened:
        ledger = Path(scratch) / LEDGER  # a copy: an older one is updated to this version
        shutil.copyfile(folder / LEDGER, ledger)
        try:
            copy = opened.enter_context(in_file(ledger))
        except DatabaseVersionError:  # it would name the copy
            raise BackupError(
                f"{folder} was made by warptune {manifest['warptune']}, and this one, {VERSION}, cannot read its "
                "tables: restore it with the versions of warptune and Optuna that made it, or with newer ones"
            ) from None
        create_all(settings.database_url)
        database = opened.enter_context(closing(Database(settings.database_url)))
        _require_empty(settings, database, store)
        written: list[str] = []
        try:
            for name in manifest["files"]:
                if name != LEDGER:
                    written.append(name.removeprefix(f"{FILES}/"))
                    write_artifact(store.url_of(written[-1]), folder / name)
            with copy.engine.connect() as source, database.engine.begin() as target:
                copy_rows(source, target)
                target.execute(update(Job).where(Job.state.in_(ACTIVE_JOB)).values(lease_expires_s=0.0))
        except BaseException:
            for kind, owner in {tuple(name.split("/")[:2]) for name in written}:
                store.delete_job(owner) if kind == "jobs" else store.delete_dataset(owner)
            raise
        audit.record_command(database, "restore", str(folder))
    return manifest


def _require_empty(settings: Settings, database: Database, store: ArtifactStore) -> None:
    advice = "restore into a new database and a new store: set WARPTUNE_DATABASE_URL and WARPTUNE_ARTIFACTS_URL"
    with database.read() as session:
        for table in (Job, DatasetRow, ApiKey):
            if session.scalar(select(table.id).limit(1)) is not None:
                where = database.url.render_as_string()
                raise BackupError(f"the database {where} is not empty: it has {table.__tablename__}; {advice}")
    if files := store.files():
        raise BackupError(f"the store {settings.artifacts_url} is not empty: it has {files[0]}; {advice}")
