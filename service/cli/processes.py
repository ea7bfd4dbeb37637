# The commands that are processes: they read the settings from the environment and stay until they are stopped. What
# they do is imported in them, so that the others do not wait for it.
"""``serve``, ``worker``, ``migrate``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.cli.console import failure
from service.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on, else WARPTUNE_HOST. No login.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port, else WARPTUNE_PORT.")] = None,
    worker: Annotated[bool, typer.Option(help="Run a worker beside the API.")] = True,
) -> None:
    """Start the service: the API, the dashboard, and a worker."""
    from service.cli.serve import run

    settings = _settings(host=host, port=port)
    with _database_failures():
        run(settings, with_worker=worker)


def worker(
    with_parent: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input is closed.")] = False,
) -> None:
    """Start a worker, which takes jobs from the database until it is stopped."""
    from service.cli.serve import run_worker

    settings = _settings()
    with _database_failures():
        run_worker(settings, with_parent=with_parent)


def migrate() -> None:
    """Create the tables of the service and of Optuna, or bring them to this version."""
    from service.cli.serve import migrate as run_migrations

    settings = _settings()
    with _database_failures():
        run_migrations(settings)


def _settings(**changes: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        from service.cli.client import without_password as shown

        lines = [
            f"  {'.'.join(map(str, e['loc']))}: got {shown(repr(e['input']))}, {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise failure("a setting is wrong\n" + "\n".join(lines), 2) from None


@contextmanager
def _database_failures() -> Iterator[None]:
    """Say in a line why a process could not start or go on."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, SQLAlchemyError, ModuleNotFoundError) as error:  # the last: the database's driver
        raise failure(str(error).partition("\n")[0]) from None
