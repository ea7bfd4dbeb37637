# What the commands have in common: where they print, what they take, and how a failure is said in a line.
"""Console, options and failures of the commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from service.errors import FieldError

if TYPE_CHECKING:
    from service.cli.client import Client

out: Final = Console()
err: Final = Console(stderr=True)

Url = Annotated[str, typer.Option(envvar="WARPTUNE_URL", help="Where the service is.")]
DEFAULT_URL: Final = "http://127.0.0.1:8000"
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]


def failure(message: str, code: int = 1) -> typer.Exit:
    """Print an error and return what a command raises to end with ``code``."""
    err.print(Text.assemble(("error: ", "red"), message), soft_wrap=True)
    return typer.Exit(code)


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """Talk to the service, and say in a line why that was not possible."""
    from service.cli.client import ApiError, Client

    try:
        with Client(url) as client:
            yield client
    except ApiError as error:
        if not error.errors:
            raise failure(str(error)) from None
        lines = [f"  {FieldError(**item)}" for item in error.errors]
        raise failure("the service refused the request\n" + "\n".join(lines)) from None
