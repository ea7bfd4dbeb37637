"""The commands ``backup``, ``restore`` and ``verify``, which read and write database and files themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.console import failure, say, say_err
from service.cli.serve import process
from service.errors import BackupError, DatabaseReplacedError

if TYPE_CHECKING:
    from service.settings import Settings

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the backup.")]


def backup(folder: Folder) -> None:
    """Back up the database and the files of a service into a new folder. The service may go on meanwhile.

    It reads the service's settings, such as WARPTUNE_DATABASE_URL. Whoever can read the backup can read every job and
    dataset, but no API key.

    Example: warptune backup backups/2026-11-29
    """
    with _settings() as settings:
        from service.backup.make import make

        manifest = make(settings, folder)
    say(f"{folder}  {_contents(manifest)}")
    say_err(f"next: warptune verify {folder}")


def restore(folder: Folder) -> None:
    """Put a backup into an empty database and an empty artifact store, which may be of another kind.

    Running jobs go on when a worker is started; runs that had not ended begin again.

    Example: WARPTUNE_DATABASE_URL=sqlite:///new.db WARPTUNE_ARTIFACTS_URL=new warptune restore backups/2026-11-29
    """
    with _settings() as settings:
        from service.backup.make import restore as put_back

        manifest = put_back(settings, folder)
        say(f"restored from {manifest['made_at']}: {_contents(manifest)}")
    say_err("next: warptune serve")


def verify(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Folder of a backup. Default: check the service itself.")
    ] = None,
) -> None:
    """Look for files that are missing, changed or left over, in a service or a backup. Exit status 1 if there are any.

    Example: warptune verify && warptune backup backups/tonight
    """
    with _settings() as settings:
        if folder is None:
            from service.backup.check import compare

            found = compare(settings)
            what, wrong = f"{found.jobs} jobs, {found.datasets} datasets and {found.files} files", found.wrong
        else:
            from service.backup.make import damage, read_manifest

            manifest = read_manifest(folder)
            what, wrong = _contents(manifest), damage(folder, manifest)
    for line in wrong:
        say(line)
    if wrong:
        raise failure(f"{len(wrong)} of these things are wrong; looked at {what}")
    say(f"nothing is missing, changed or left over: {what}")


def _contents(manifest: dict[str, Any]) -> str:
    counts = {name: manifest[name] for name in ("jobs", "trials", "datasets")} | {"files": len(manifest["files"])}
    return ", ".join(f"{count} {name if count != 1 else name.removesuffix('s')}" for name, count in counts.items())


@contextmanager
def _settings() -> Iterator[Settings]:
    with process() as settings:
        try:
            yield settings
        except (BackupError, DatabaseReplacedError) as error:
            raise failure(str(error)) from None
