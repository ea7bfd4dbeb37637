"""The commands ``keys create``, ``keys list`` and ``keys revoke``, which read and write the database itself.

Whoever reaches the database may make keys, so these commands need no key and no running service.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from service.cli.console import failure, say, say_err
from service.cli.serve import process
from service.errors import InvalidSpecError, NotFoundError

if TYPE_CHECKING:
    from service.db.session import Database

UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys of a service, next to its database.")


@app.command()
def create(
    project: Annotated[str, typer.Option(help="Project whose jobs and datasets the key is for.")],
    scope: Annotated[
        Literal["read", "submit", "admin"],
        typer.Option(help="read: look. submit: also submit, change and delete. admin: also see every project."),
    ],
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid: 12h, 90d or 4w. Default: until it is revoked.")
    ] = None,
) -> None:
    """Make an API key and print it. It is shown this once, and stored as a hash.

    Example: export WARPTUNE_API_KEY=$(warptune keys create --project vision --scope submit --expires 90d)
    """
    duration = None if expires is None else _duration(expires)
    with _database() as db:
        from service.ledger import audit, keys

        is_first = not keys.exist(db)
        key, row = keys.create(db, project, keys.Scope(scope), duration)
        audit.record_command(db, "keys create", f"key {row.id}, scope {scope}", project)
    say(key)
    until = "until it is revoked" if row.expires_at is None else f"until {_time(row.expires_at)}"
    say_err(f"key {row.id} of project {project}, scope {scope}, valid {until}; it is not shown again")
    if is_first:
        say_err("it is the first key: from now on, the service asks everybody for one")


@app.command("list")
def list_keys() -> None:
    """List the API keys, without their secrets."""
    with _database() as db:
        from service.db.models import utc_now
        from service.ledger import keys

        found = keys.all_keys(db)
        for row in found:
            used = "never used" if row.last_used_at is None else f"used {_time(row.last_used_at)}"
            until = "" if row.expires_at is None else f", expires {_time(row.expires_at)}"
            state = keys.standing(row, utc_now())
            say(f"{row.id}  {state:<7}  {row.scope:<6}  {row.project}  made {_time(row.created_at)}, {used}{until}")
    if not found:
        say_err("There are no keys. Make one: warptune keys create --project NAME --scope admin")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as warptune keys list shows it.")],
) -> None:
    """Make an API key invalid at once, and sign out the browsers that signed in with it."""
    with _database() as db:
        from service.ledger import audit, keys

        row = keys.revoke(db, key)
        audit.record_command(db, "keys revoke", f"key {row.id}", row.project)
    say(f"key {row.id} of project {row.project} is revoked")


@contextmanager
def _database() -> Iterator[Database]:
    with process() as settings:
        from service.db.session import Database
        from service.db.studies import create_tables

        create_tables(settings.database_url)
        try:
            with closing(Database(settings.database_url)) as db:
                yield db
        except (InvalidSpecError, NotFoundError) as error:
            raise failure(str(error), 2) from None


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text)
    if found is None:
        raise failure(f"--expires must be a number of hours, days or weeks, such as 12h, 90d or 4w (got {text!r})", 2)
    return timedelta(**{UNITS[found[2]]: int(found[1])})


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
