"""The commands ``tune`` and ``init``: from a file to an answer or to a spec, without a server."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from service.cli.console import (
    check_file,
    check_output,
    connected,
    failure,
    out,
    reported,
    say,
    say_err,
    write_output,
)
from service.cli.flags import in_flags, option_errors
from service.cli.reading import with_reading
from service.cli.remote import follow
from service.client.answers import EXPORTS
from service.client.calls import name_of
from service.client.quick_spec import STARTING, WARNING, called, describe, describe_earlier, make_spec

if TYPE_CHECKING:
    from service.client.answers import Dataset
    from service.client.rest import Client


Data = Annotated[str, typer.Argument(help="File with your data: CSV, Excel, Parquet, NPZ, text, zip of images.")]
Target = Annotated[str | None, typer.Option(help="Column to predict.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=KIND",
        help="Take a column for another kind, or ignore it: zip=category. May be repeated.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="BY=COLUMN", help="group=COLUMN keeps equal values together; time=COLUMN tests the newest rows."
    ),
]
Metric = Annotated[str, typer.Option(help="What is judged, such as val_roc_auc or val_mae.")]
Trials = Annotated[int, typer.Option(min=1, help="Trials of each optimizer.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps of each run.")]
MaxSeconds = Annotated[float, typer.Option(help="Seconds after which the search of an optimizer ends.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
OptionalUrl = Annotated[
    str | None, typer.Option(envvar="WARPTUNE_URL", help="URL of a service. Default: one for this command alone.")
]
SPLITS: Final = ("group", "time", "column")
"""Ways to split rows by a column."""


@with_reading
def tune(
    data: Data,
    target: Target = None,
    column: Columns = None,
    split: Split = None,
    metric: Metric = "val_loss",
    trials: Trials = 20,
    steps: Steps = 400,
    max_seconds: MaxSeconds = 600,
    seed: Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the recommendation: .py, .zip, .json, .yaml or .toml.")
    ] = None,
    save_spec: Annotated[Path | None, typer.Option(help="Save the spec of the job, to change and submit it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; do not tune.")] = False,
    url: OptionalUrl = None,
    *,
    reading: dict[str, object],
) -> None:
    """Find out whether P helps on your data: read it, tune WarpAdam and AdamW on it, and compare them.

    Example: warptune tune churn.csv --target churned
    """
    if output is not None and output.suffix not in EXPORTS:
        raise failure(f"--output must end in one of {', '.join(EXPORTS)}, not in {output.suffix!r}", 2)
    check_output(output)
    check_output(save_spec)
    fields = _fields(metric, trials, steps, max_seconds, seed)
    with _uploaded(url, data, target, column, split, reading) as (client, uploaded, dataset):
        spec = make_spec(uploaded, name_of(data), dataset, **fields)
        with _before_the_job():
            plan = client.estimate(spec)
        about = list(describe(uploaded, plan))
        _show(describe(uploaded, plan, in_flags))
        if save_spec is not None:
            write_output(_as_yaml(spec, about, save_spec), save_spec)
            say(f"saved the spec to {save_spec}")
        if dry_run:
            return
        _show(describe_earlier(client, spec, is_private=url is None))
        job = client.submit(spec)["id"]
        follow(client, job, is_ours=url is None)
        if output is not None:
            write_output(client.export(job, EXPORTS[output.suffix]), output)
            say(f"saved the recommendation to {output}")
    _say_next(job, output, is_private=url is None)


@with_reading
def init(
    data: Data,
    target: Target = None,
    column: Columns = None,
    split: Split = None,
    metric: Metric = "val_loss",
    trials: Trials = 20,
    steps: Steps = 400,
    max_seconds: MaxSeconds = 600,
    seed: Seed = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file to write.")] = Path("spec.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    url: OptionalUrl = None,
    *,
    reading: dict[str, object],
) -> None:
    """Write the spec of a job on your data, with every field explained, to change and submit it.

    Example: warptune init churn.csv --target churned
    """
    if output.exists() and not force:
        raise failure(f"{output} exists; choose another file with -o, or replace it with --force", 2)
    check_output(output)
    fields = _fields(metric, trials, steps, max_seconds, seed)
    with _uploaded(url, data, target, column, split, reading) as (client, uploaded, dataset):
        spec = make_spec(uploaded, name_of(data), dataset, **fields)
        with _before_the_job():
            plan = client.estimate(spec)
        about = list(describe(uploaded, plan))
        _show(describe(uploaded, plan, in_flags))
    write_output(_as_yaml(spec, about, output), output)
    serve = "warptune serve, then " if url is None else ""
    say(f"wrote {output}; next: {serve}warptune submit {output} --watch")


def _fields(metric: str, trials: int, steps: int, max_seconds: float, seed: int) -> dict[str, object]:
    budget = {"trials_per_arm": trials, "steps": steps, "max_seconds": max_seconds}
    return {"objective": {"metric": metric}, "budget": budget, "seed": seed}


@contextmanager
def _uploaded(
    url: str | None,
    data: str,
    target: str | None,
    column: list[str] | None,
    split: str | None,
    reading: Mapping[str, object],
) -> Iterator[tuple[Client, Dataset, Mapping[str, object]]]:
    """Connect to a service and upload a file; yield the client, the dataset, and the fields of it that were given."""
    dataset = {
        "target": target,
        "columns": dict(_pair("--column", text, "zip=category") for text in column or []),
        "split": split and _split(split),
    }
    if "://" not in data:
        check_file(data)
    with ExitStack() as opened:
        with _before_the_job():
            say_err(STARTING)
            client = opened.enter_context(_service(url))
            opened.enter_context(_in_flags(target))
            try:
                uploaded, _ = client.upload(data, reading=reading)
            except OSError as error:
                raise failure(f"cannot read {data}: {error.strerror or error}", 2) from None
        if uploaded["layout"] == "table" and target is None:
            names = ", ".join(column["name"] for column in uploaded["columns"])
            raise failure(f"--target must name the column to predict, one of: {names}", 2)
        yield client, called(uploaded, data), dataset


@contextmanager
def _before_the_job() -> Iterator[None]:
    """Say after Ctrl-C that no job was started, and end the command."""
    try:
        yield
    except KeyboardInterrupt:
        say_err("stopped; no job was started")
        raise typer.Exit(128 + signal.SIGINT) from None


@contextmanager
def _in_flags(target: str | None) -> Iterator[None]:
    """Print what the service says about options by their names, and end the command. Other errors pass."""
    from service.client.rest import ApiError

    try:
        yield
    except ApiError as error:
        if not error.errors and error.status == HTTPStatus.UNPROCESSABLE_ENTITY:  # the file cannot be used
            raise failure(in_flags(str(error), "")) from None
        wrong = option_errors(error.errors, target)
        if not wrong:
            raise
        raise failure("\n".join(wrong), 2) from None


def _split(text: str) -> dict[str, str]:
    by, column = _pair("--split", text, "group=patient")
    if by not in SPLITS:
        known = ", ".join(f"{name}=COLUMN" for name in SPLITS)
        hint = "; rows are split at random without this option" if by == "random" else ""
        raise failure(f"--split must be one of {known}, not {text!r}{hint}", 2)
    return {"by": by, "column": column}


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        out.print(Text(line, style="yellow" if line.startswith(WARNING) else ""), soft_wrap=True)


def _pair(option: str, text: str, example: str) -> tuple[str, str]:
    """Return the two sides of the last (for a split: the first) equals sign."""
    left, equals, right = text.rpartition("=") if option == "--column" else text.partition("=")
    if not equals:
        raise failure(f"{option} must be two words with = between them, such as {example}, not {text!r}", 2)
    return left, right


@contextmanager
def _service(url: str | None) -> Iterator[Client]:
    if url is not None:
        with connected(url) as client:
            yield client
        return
    from service.client.private import NotStartedError, private_service

    try:
        with reported(), private_service() as client:
            yield client
    except NotStartedError as error:
        raise failure(str(error)) from None


def _as_yaml(spec: Mapping[str, Any], about: Iterable[str], output: Path) -> bytes:
    from service.cli.spec_file import write_spec

    lines = ("A job that tunes WarpAdam and AdamW:", *about, f"Start it with: warptune submit {output} --watch")
    return write_spec(spec, lines).encode(errors="replace")  # the name of the file may be no text


def _say_next(job: str, output: Path | None, *, is_private: bool) -> None:
    """Say what to do with the answer."""
    serve = "warptune serve, then " if is_private else ""
    if output is not None and output.suffix == ".zip":
        say(f"next: warptune predict {output} NEW_ROWS.csv, or {serve}warptune report {job}")
    elif output is None:
        say(f"next: {serve}warptune export {job} -f python -o recommended.py, or warptune report {job}")
    else:
        say(f"next: {serve}warptune report {job}, or warptune extend {job} --seeds 8 --watch")
