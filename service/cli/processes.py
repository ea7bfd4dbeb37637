"""The commands ``serve``, ``worker`` and ``migrate``, which take their settings from the environment.

What they run is imported inside them, so that the other commands do not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.cli.console import failure
from service.settings import Settings


def serve(
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on. Default: WARPTUNE_HOST, else 127.0.0.1. There is no login: keep it private."
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="TCP port. Default: WARPTUNE_PORT, else 8000.")] = None,
    worker: Annotated[bool, typer.Option(help="Also start a worker, which runs the jobs.")] = True,
) -> None:
    """Start the service: the API, the dashboard and one worker. Stop it with Ctrl-C.

    Example: warptune serve --port 9000
    """
    from service.cli.serve import run

    settings = _settings(host=host, port=port)
    with _database_failures():
        run(settings, with_worker=worker)


def worker(
    with_parent: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input is closed.")] = False,
) -> None:
    """Start a worker: it runs the queued jobs of the database, one at a time, until you stop it."""
    from service.cli.serve import run_worker

    settings = _settings()
    with _database_failures():
        run_worker(settings, with_parent=with_parent)


def migrate() -> None:
    """Create the database tables, or update them to this version. serve and worker also do this."""
    from service.cli.serve import migrate as run_migrations

    settings = _settings()
    with _database_failures():
        run_migrations(settings)


def _settings(**changes: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        raise failure("\n".join(["a setting is not valid", *_wrong_settings(error)]), 2) from None


def _wrong_settings(error: ValidationError) -> Iterator[str]:
    from service.api.field_errors import field_error
    from service.cli.client import without_password

    for item in error.errors():
        name = str(item["loc"][0])
        item["input"] = without_password(str(item["input"]))
        yield f"  {field_error(f'{name} (WARPTUNE_{name.upper()})', item)}"


@contextmanager
def _database_failures() -> Iterator[None]:
    """Report in one line why a process could not start or continue."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, SQLAlchemyError, ModuleNotFoundError) as error:  # the last: no driver for the database
        raise failure(str(error).partition("\n")[0]) from None
