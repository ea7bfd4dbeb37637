"""What the commands share: where they print, their common options, and how they report a failure."""

from __future__ import annotations

import json
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from service.client.rest import Client


def plain_console(**options: Any) -> Console:
    """Return a console that prints texts as they are: with ``:fire:`` and ``[red]``, without colours of its own choice.

    ``options`` are those of rich's ``Console``.
    """
    return Console(emoji=False, markup=False, highlight=False, **options)


out: Final = plain_console()
err: Final = plain_console(stderr=True)

Url = Annotated[str, typer.Option(envvar="WARPTUNE_URL", help="URL of the service.")]
LATEST: Final = "@latest"
"""Stands for the id of the job that was submitted last."""

MOST_FILES: Final = 10
"""Files of a folder that an error names."""

JOB_ID: Final = re.compile(r"job-\S+")
DEFAULT_URL: Final = "http://127.0.0.1:8000"
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id or name of a job, or @latest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON, for programs.")]


def say(text: str) -> None:
    """Print a line as it is, however long."""
    out.print(text, soft_wrap=True)


def say_err(text: str) -> None:
    """Print a line for people, which is not part of the answer, on standard error."""
    err.print(text, soft_wrap=True)


def failure(message: str, code: int = 1) -> typer.Exit:
    """Print an error; return the exception to raise, which ends the command with exit status ``code``."""
    err.print(Text.assemble(("error: ", "red"), message), soft_wrap=True)
    return typer.Exit(code)


def say_json(answer: object) -> None:
    """Print an answer of the service as JSON, byte for byte: a program may read it."""
    sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=out.encoding != "utf-8") + "\n")


def check_file(path: str | Path) -> None:
    """End the command if a path is not one of a file; for a folder, name the data files in it."""
    from service.data.upload import format_of

    if Path(path).is_dir():
        inside = sorted(file.name for file in Path(path).iterdir() if file.is_file() and format_of(file.name))
        more = ", ..." if len(inside) > MOST_FILES else ""
        named = f"give a file in it: {', '.join(inside[:MOST_FILES])}{more}" if inside else "there are no data in it"
        raise failure(f"{path} is a folder; {named}", 2)
    if not Path(path).is_file():
        raise failure(f"cannot read {path}: there is no such file", 2)


def job_id(client: Client, given: str) -> str:
    """Return the id of the job that is meant by its id, its name or ``@latest``; end the command if that is not one."""
    if given == LATEST:
        newest = next(iter(client.jobs()), None)
        if newest is None:
            raise failure("there are no jobs. Queue one: warptune submit SPEC")
        return newest["id"]
    if JOB_ID.fullmatch(given):
        return given
    found = [job["id"] for job in client.jobs(name=given)]
    if len(found) != 1:
        several = f"{len(found)} jobs have the name {given!r}: {', '.join(found[:5])}; give the id of one"
        raise failure(several if found else f"there is no job with the id or name {given!r}; see warptune jobs")
    return found[0]


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """Connect to the service. An error of the API is printed, wrong fields one a line, and ends the command."""
    from service.client.rest import Client

    if not url.startswith(("http://", "https://")):
        raise failure(f"--url (or WARPTUNE_URL) must begin with http:// or https://, not {url!r}", 2)
    with reported(), Client(url, retry_s=0) as client:
        yield client


@contextmanager
def reported() -> Iterator[None]:
    """Print an error of the API, wrong fields one a line, and end the command."""
    from service.client.rest import ApiError

    try:
        yield
    except ApiError as error:
        if error.status == 0 and error.__cause__ is not None:  # nobody has answered
            advice = "start a service with warptune serve, or name one with --url or WARPTUNE_URL"
            raise failure(f"{error}; {advice}") from None
        wrong = "".join(f"\n  {field}" for field in error.errors)
        raise failure(f"the service refused the request{wrong}" if wrong else str(error)) from None


def check_output(output: Path | None) -> None:
    """End the command if a file could not be written. It is called before the work that the file is for."""
    if output is None:
        return
    try:
        if output.is_dir():
            raise failure(f"cannot write {output}: it is a folder", 2)
        if output.exists() and not output.is_file():
            return  # a device or a pipe
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except FileNotFoundError:
        raise failure(f"cannot write {output}: there is no folder {output.parent}", 2) from None
    except OSError as error:
        raise failure(f"cannot write {output}: {error.strerror}", 2) from None


def write_output(content: bytes, output: Path | None) -> None:
    """Write a complete file or none; without a name, write to standard output."""
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    part = output.parent / f".{secrets.token_hex(4)}.part"  # of any length, the name alone may be as long as allowed
    try:
        if output.exists() and not output.is_file():  # a device or a pipe
            output.write_bytes(content)
            return
        part.write_bytes(content)
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise failure(f"cannot write {output}: {error.strerror}") from None
