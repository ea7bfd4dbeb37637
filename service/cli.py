# The command line: starts processes, or talks to a running service through client.py. Heavy imports are inside the
# commands, so that `warptune show` does not wait for them.
"""The ``warptune`` command."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console

from service.client import ApiError, Client
from service.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tune how WarpAdam's P is shaped and learned, and learn whether it helps.",
)

out = Console()
err = Console(stderr=True)

Url = Annotated[str, typer.Option(envvar="WARPTUNE_URL", help="Where the service is.")]
DEFAULT_URL = "http://127.0.0.1:8000"
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]


class Format(StrEnum):
    """Form of an export."""

    JSON = "json"
    YAML = "yaml"
    PYTHON = "python"


def _fail(message: str, code: int = 1) -> typer.Exit:
    err.print(f"[red]error:[/] {message}", markup=True, highlight=False, soft_wrap=True)
    return typer.Exit(code)


def _api_failure(error: ApiError) -> typer.Exit:
    if not error.errors:
        return _fail(str(error))
    lines = [f"  {item['field']}: got {item['value']!r}, expected {item['expected']}" for item in error.errors]
    return _fail("the service refused the request\n" + "\n".join(lines))


def _settings(**changes: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: got {e['input']!r}, {e['msg']}" for e in error.errors()]
        raise _fail("a setting is wrong\n" + "\n".join(lines), 2) from None


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. There is no login.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.")] = None,
    worker: Annotated[bool, typer.Option(help="Run a worker beside the API.")] = True,
) -> None:
    """Start the service: the API, the dashboard, and a worker."""
    from service.serve import run

    settings = _settings(host=host, port=port)
    try:
        run(settings, with_worker=worker)
    except OSError as error:
        raise _fail(str(error)) from None


@app.command()
def worker(
    with_parent: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input is closed.")] = False,
) -> None:
    """Start a worker, which takes jobs from the database until it is stopped."""
    from service.serve import run_worker

    run_worker(_settings(), with_parent=with_parent)


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="YAML or JSON file with the job's spec.")],
    watch: Annotated[bool, typer.Option("--watch", help="Stay until the job has ended.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Queue a job."""
    body = _read_spec(spec)
    with Client(url) as client:
        try:
            job = client.submit(body)
            if not watch:
                out.print(job["id"], highlight=False)
                return
            _watch(client, job["id"])
        except ApiError as error:
            raise _api_failure(error) from None


@app.command()
def show(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Show how a job stands, and its recommendation when there is one."""
    from service.display import show_job, show_recommendation

    with Client(url) as client:
        try:
            answer = client.job(job)
            show_job(out, answer)
            if answer["state"] == "succeeded":
                show_recommendation(out, client.recommendation(job))
        except ApiError as error:
            raise _api_failure(error) from None


@app.command()
def export(
    job: JobArgument,
    fmt: Annotated[Format, typer.Option("--format", "-f", help="Form of the file.")] = Format.JSON,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; standard output if none.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Write the recommended config of a job to a file."""
    with Client(url) as client:
        try:
            text = client.export(job, fmt)
        except ApiError as error:
            raise _api_failure(error) from None
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise _fail(f"cannot write {output}: {error.strerror}") from None


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(path.read_text())
    except OSError as error:
        raise _fail(f"cannot read {path}: {error.strerror}", 2) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _fail(f"{path} is neither YAML nor JSON: {error}", 2) from None
    if not isinstance(body, dict):
        raise _fail(f"{path} holds {type(body).__name__}, expected the fields of a job", 2)
    return body


def _watch(client: Client, job_id: str) -> None:
    from service.display import show_recommendation
    from service.display import watch as draw

    out.print(f"job {job_id}  {client.url}/dashboard", highlight=False)
    try:
        job = draw(out, client.watch(job_id))
    except KeyboardInterrupt:
        out.print(f"stopped watching; the job goes on: warptune show {job_id}", highlight=False)
        raise typer.Exit(128 + signal.SIGINT) from None
    if job["state"] != "succeeded":
        raise _fail(f"the job {job['state']}" + (f": {job['cause']}" if job["cause"] else ""))
    show_recommendation(out, client.recommendation(job_id))
