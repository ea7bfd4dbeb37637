"""The commands ``export``, ``report`` and ``replay``; the last needs no running service."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import DEFAULT_URL, JobArgument, Url, connected, failure, out

Format = StrEnum("Format", ["JSON", "YAML", "TOML", "PYTHON", "SAFETENSORS", "ZIP"])


def export(
    job: JobArgument,
    fmt: Annotated[Format, typer.Option("--format", "-f", help="Form of the file.")] = Format.JSON,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: standard output.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Write the recommended config of a job to a file: as data, a script, its learned P, or everything in a zip."""
    with connected(url) as client:
        _write(client.export(job, fmt), output)


def report(
    job: JobArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("report.html"),
    url: Url = DEFAULT_URL,
) -> None:
    """Write the report of a job that has succeeded: one HTML file that you can open offline."""
    with connected(url) as client:
        _write(client.report(job), output)


def replay(bundle: Annotated[Path, typer.Argument(metavar="ZIP", help="A zip export.")]) -> None:
    """Check a zip export: verify its hashes, train its recommendation again and compare the losses."""
    from service.export.replay import TOLERANCE, BundleError, read_bundle
    from service.export.replay import replay as train_again

    try:
        content = read_bundle(bundle)
        out.print(f"{len(content.files)} files, all hashes are right", highlight=False)
        done = []
        for run in train_again(content):
            done.append(run)
            line = f"{run.what} {run.test_loss:.8f}, recorded {run.recorded:.8f}"
            out.print(line, highlight=False, soft_wrap=True)
    except OSError as error:
        raise failure(f"cannot read {bundle}: {error.strerror}") from None
    except BundleError as error:
        raise failure(str(error)) from None
    if not all(run.agrees for run in done):
        versions = ", ".join(f"{name} {number}" for name, number in content.manifest.get("versions", {}).items())
        raise failure(f"the losses differ by more than {TOLERANCE:g}; they were recorded with {versions}")
    out.print("replayed: the losses agree", highlight=False)


def _write(content: bytes, output: Path | None) -> None:
    """Write a complete file or none; without a name, write to standard output."""
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
        raise failure(f"cannot write {output}: {error.strerror}") from None
