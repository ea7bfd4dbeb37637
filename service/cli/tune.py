"""The command ``tune``: from a file to an answer, without a server and without a spec."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from service.cli.console import connected, err, failure, out, say, write_output
from service.client.answers import EXPORTS
from service.client.quick_spec import WARNING, describe, make_spec

if TYPE_CHECKING:
    from service.client.rest import Client


def tune(
    data: Annotated[str, typer.Argument(help="File with your data: CSV, Excel, Parquet, NPZ, text, zip of images.")],
    target: Annotated[str | None, typer.Option(help="Column to predict.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KIND", help="Take a column for another kind, or ignore it: zip=category. May be repeated."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="BY=COLUMN", help="group=COLUMN keeps equal values together; time=COLUMN tests the newest rows."
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="What is judged, such as val_roc_auc or val_mae.")] = "val_loss",
    trials: Annotated[int, typer.Option(min=1, help="Trials of each optimizer.")] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the recommendation: .py, .zip, .json, .yaml or .toml.")
    ] = None,
    save_spec: Annotated[Path | None, typer.Option(help="Save the spec of the job, to change and submit it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; do not tune.")] = False,
    url: Annotated[
        str | None, typer.Option(envvar="WARPTUNE_URL", help="URL of a service. Default: one for this command alone.")
    ] = None,
) -> None:
    """Find out whether P helps on your data: read it, tune WarpAdam and AdamW on it, and compare them.

    Example: warptune tune churn.csv --target churned
    """
    if output is not None and output.suffix not in EXPORTS:
        raise failure(f"--output must end in one of {', '.join(EXPORTS)}, not in {output.suffix!r}", 2)
    dataset = {
        "target": target,
        "columns": dict(_pair("--column", text, "zip=category") for text in column or []),
        "split": split and dict(zip(("by", "column"), _pair("--split", split, "group=patient"), strict=True)),
    }
    if "://" not in data and not Path(data).is_file():
        raise failure(f"cannot read {data}: there is no such file", 2)
    with _service(url) as client:
        try:
            uploaded, _ = client.upload(data)
        except OSError as error:
            raise failure(f"cannot read {data}: {error.strerror or error}", 2) from None
        if uploaded["layout"] == "table" and target is None:
            names = ", ".join(column["name"] for column in uploaded["columns"])
            raise failure(f"--target must name the column to predict, one of: {names}", 2)
        spec = make_spec(
            uploaded,
            Path(data).name,
            dataset,
            objective={"metric": metric},
            budget={"trials_per_arm": trials, "steps": steps},
            seed=seed,
        )
        for line in describe(uploaded, client.estimate(spec)):
            out.print(Text(line, style="yellow" if line.startswith(WARNING) else ""), soft_wrap=True)
        if save_spec is not None:
            write_output(_as_yaml(spec), save_spec)
            say(f"saved the spec to {save_spec}")
        if dry_run:
            return
        job = client.submit(spec)["id"]
        _follow(client, job, is_private=url is None)
        if output is not None:
            write_output(client.export(job, EXPORTS[output.suffix]), output)
            say(f"saved the recommendation to {output}")
    _say_next(job, output, is_private=url is None)


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
        with private_service() as service, connected(service.url) as client:
            yield client
    except NotStartedError as error:
        raise failure(str(error)) from None


def _as_yaml(spec: Mapping[str, object]) -> bytes:
    import yaml

    return yaml.safe_dump(dict(spec), sort_keys=False).encode()


def _follow(client: Client, job: str, *, is_private: bool) -> None:
    """Show the progress and the answer of a job. Ctrl-C stops a job that no other service would go on with."""
    from service.cli.display import show_recommendation, watch

    try:
        answer = watch(out, client.watch(job))
    except KeyboardInterrupt:
        if is_private:
            client.cancel(job)
            err.print(f"stopped; the trials of {job} so far are kept")
        else:
            err.print(f"stopped watching; the job still runs. Show it: warptune show {job}")
        raise typer.Exit(128 + signal.SIGINT) from None
    if answer["state"] != "succeeded":
        raise failure(f"the job {answer['state']}" + (f": {answer['cause']}" if answer["cause"] else ""))
    show_recommendation(out, client.recommendation(job))


def _say_next(job: str, output: Path | None, *, is_private: bool) -> None:
    """Say what to do with the answer."""
    serve = "warptune serve, then " if is_private else ""
    if output is not None and output.suffix == ".zip":
        say(f"next: warptune predict {output} NEW_ROWS.csv, or {serve}warptune report {job}")
    elif output is None:
        say(f"next: {serve}warptune export {job} -f python -o recommended.py, or warptune report {job}")
    else:
        say(f"next: {serve}warptune report {job}, or warptune extend {job} --seeds 8 --watch")
