# The command line: starts processes, or talks to a running service through client.py. Heavy imports are inside the
# commands, so that `warptune show` does not wait for them.
"""The ``warptune`` command."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from service.settings import Settings
from service.user_code.command import check

if TYPE_CHECKING:
    from service.cli.client import Client

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tune how WarpAdam's P is shaped and learned, and learn whether it helps.",
)

app.command()(check)

out = Console()
err = Console(stderr=True)

Url = Annotated[str, typer.Option(envvar="WARPTUNE_URL", help="Where the service is.")]
DEFAULT_URL = "http://127.0.0.1:8000"
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]
Watch = Annotated[bool, typer.Option("--watch", help="Stay until the job has ended.")]


Format = StrEnum("Format", ["JSON", "YAML", "TOML", "PYTHON", "SAFETENSORS", "ZIP"])


def _fail(message: str, code: int = 1) -> typer.Exit:
    err.print(Text.assemble(("error: ", "red"), message), soft_wrap=True)
    return typer.Exit(code)


@contextmanager
def _service(url: str) -> Iterator[Client]:
    """Talk to the service, and say in a line why that was not possible."""
    from service.cli.client import ApiError, Client

    try:
        with Client(url) as client:
            yield client
    except ApiError as error:
        if not error.errors:
            raise _fail(str(error)) from None
        lines = [f"  {item['field']}: got {item['value']!r}, expected {item['expected']}" for item in error.errors]
        raise _fail("the service refused the request\n" + "\n".join(lines)) from None


def _settings(**changes: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        from service.cli.client import without_password as shown

        lines = [f"  {'.'.join(map(str, e['loc']))}: got {shown(repr(e['input']))}, {e['msg']}" for e in error.errors()]
        raise _fail("a setting is wrong\n" + "\n".join(lines), 2) from None


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. There is no login.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.")] = None,
    worker: Annotated[bool, typer.Option(help="Run a worker beside the API.")] = True,
) -> None:
    """Start the service: the API, the dashboard, and a worker."""
    from service.cli.serve import run

    settings = _settings(host=host, port=port)
    with _database_failures():
        run(settings, with_worker=worker)


@app.command()
def worker(
    with_parent: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input is closed.")] = False,
) -> None:
    """Start a worker, which takes jobs from the database until it is stopped."""
    from service.cli.serve import run_worker

    settings = _settings()
    with _database_failures():
        run_worker(settings, with_parent=with_parent)


@app.command()
def migrate() -> None:
    """Create the tables of the service and of Optuna, or bring them to this version."""
    from service.cli.serve import migrate as run_migrations

    settings = _settings()
    with _database_failures():
        run_migrations(settings)


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="YAML or JSON file with the job's spec.")],
    watch: Watch = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would do and cost.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Queue a job."""
    from service.cli.display import show_estimate
    from service.cli.spec_file import read_spec

    try:
        body = read_spec(spec)
    except OSError as error:
        raise _fail(f"cannot read {spec}: {error.strerror}", 2) from None
    except ValueError as error:
        raise _fail(str(error), 2) from None
    with _service(url) as client:
        if dry_run:
            show_estimate(out, client.estimate(body))
        else:
            _queued(client, client.submit(body)["id"], watch)


@app.command()
def extend(
    job: JobArgument,
    trials: Annotated[int, typer.Option(help="More trials for each arm.")] = 0,
    seeds: Annotated[int, typer.Option(help="More fresh paired seeds.")] = 0,
    max_seconds: Annotated[float, typer.Option(help="More seconds for each arm.")] = 0.0,
    watch: Watch = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Add to a job that has succeeded; its next verdict is tested at half the level."""
    with _service(url) as client:
        client.extend(job, {"trials": trials, "seeds": seeds, "max_seconds": max_seconds})
        _queued(client, job, watch)


@app.command()
def cancel(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Stop a job; what it has found so far stays."""
    with _service(url) as client:
        out.print(f"{job} {client.cancel(job)['state']}", highlight=False)


@app.command()
def show(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Show how a job stands, and its recommendation when there is one."""
    from service.cli.display import show_job, show_recommendation

    with _service(url) as client:
        answer = client.job(job)
        show_job(out, answer)
        if answer["state"] == "succeeded":
            show_recommendation(out, client.recommendation(job))


@app.command()
def export(
    job: JobArgument,
    fmt: Annotated[Format, typer.Option("--format", "-f", help="Form of the file.")] = Format.JSON,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; standard output if none.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Write the recommended config of a job to a file: as data, as a script, its learned P, or all in a zip."""
    with _service(url) as client:
        _write(client.export(job, fmt), output)


@app.command()
def report(
    job: JobArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("report.html"),
    url: Url = DEFAULT_URL,
) -> None:
    """Write the report of a job that has succeeded: one HTML file, which needs no network."""
    with _service(url) as client:
        _write(client.report(job), output)


@app.command()
def replay(bundle: Annotated[Path, typer.Argument(metavar="ZIP", help="A zip export.")]) -> None:
    """Check the sums of a zip export, train its recommendation again and compare the losses."""
    from service.cli.replay import TOLERANCE, BundleError, read_bundle
    from service.cli.replay import replay as train_again

    try:
        content = read_bundle(bundle)
        out.print(f"{len(content.files)} files, every sum is right", highlight=False)
        done = []
        for run in train_again(content):
            done.append(run)
            line = f"{run.what} {run.test_loss:.8f}, recorded {run.recorded:.8f}"
            out.print(line, highlight=False, soft_wrap=True)
    except OSError as error:
        raise _fail(f"cannot read {bundle}: {error.strerror}") from None
    except BundleError as error:
        raise _fail(str(error)) from None
    if not all(run.agrees for run in done):
        versions = ", ".join(f"{name} {number}" for name, number in content.manifest.get("versions", {}).items())
        raise _fail(f"the losses differ by more than {TOLERANCE:g}; they were recorded with {versions}")
    out.print("replayed: the losses agree", highlight=False)


def _write(content: bytes, output: Path | None) -> None:
    """Write a file whole or not at all; without a name, write to standard output."""
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    part = output.parent / f".{output.name}.part"
    try:
        if output.exists() and not output.is_file():  # a device or a pipe
            output.write_bytes(content)
            return
        part.write_bytes(content)
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _fail(f"cannot write {output}: {error.strerror}") from None


@app.command()
def upload(
    file: Annotated[str, typer.Argument(help="CSV, Parquet, NPZ, text, a zip of image folders, or the URL of one.")],
    fmt: Annotated[
        str | None, typer.Option("--format", help="csv, parquet, npz, text or images; else the name's ending decides.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload a dataset and print its id, which a job's spec names."""
    with _service(url) as client:
        try:
            dataset, is_new = client.upload(file, fmt)
        except OSError as error:
            raise _fail(f"cannot read {file}: {error.strerror}", 2) from None
    out.print(dataset["id"], highlight=False)
    if not is_new:
        err.print("the same file was uploaded before")


@app.command()
def datasets(url: Url = DEFAULT_URL) -> None:
    """List the uploaded datasets, the newest first."""
    with _service(url) as client:
        for item in client.datasets():
            line = f"{item['id']}  {item['rows']:>9} rows  {item['format']:<8} {item['name']}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _database_failures() -> Iterator[None]:
    """Say in a line why a process could not start or go on."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, SQLAlchemyError, ModuleNotFoundError) as error:  # the last: the database's driver
        raise _fail(str(error).partition("\n")[0]) from None


def _queued(client: Client, job_id: str, watch: bool) -> None:
    if watch:
        _watch(client, job_id)
    else:
        out.print(job_id, highlight=False)


def _watch(client: Client, job_id: str) -> None:
    from service.cli.display import show_recommendation
    from service.cli.display import watch as draw

    out.print(f"job {job_id}  {client.url}/dashboard", highlight=False, markup=False)
    try:
        job = draw(out, client.watch(job_id))
    except KeyboardInterrupt:
        out.print(f"stopped watching; the job goes on: warptune show {job_id}", highlight=False)
        raise typer.Exit(128 + signal.SIGINT) from None
    if job["state"] != "succeeded":
        raise _fail(f"the job {job['state']}" + (f": {job['cause']}" if job["cause"] else ""))
    show_recommendation(out, client.recommendation(job_id))
