"""The commands ``submit``, ``jobs``, ``show``, ``extend``, ``cancel`` and ``delete``."""

from __future__ import annotations

import signal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.console import DEFAULT_URL, JobArgument, Url, connected, err, failure, out
from service.states import JobState

if TYPE_CHECKING:
    from service.cli.client import Client

WatchOption = Annotated[bool, typer.Option("--watch", help="Show the progress until the job has ended.")]


def submit(
    spec: Annotated[Path, typer.Argument(help="YAML or JSON file with the job's spec.")],
    watch: WatchOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the job would do and cost; do not queue it.")
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Queue a job and print its id.

    Example: warptune submit examples/digits-mlp.yaml --watch
    """
    from service.cli.display import show_estimate
    from service.cli.spec_file import read_spec

    try:
        body = read_spec(spec)
    except OSError as error:
        raise failure(f"cannot read {spec}: {error.strerror or error}", 2) from None
    except ValueError as error:
        raise failure(str(error), 2) from None
    with connected(url) as client:
        if dry_run:
            show_estimate(out, client.estimate(body))
        else:
            _print_or_watch(client, client.submit(body)["id"], watch)


def extend(
    job: JobArgument,
    trials: Annotated[int, typer.Option(help="More trials for each arm.")] = 0,
    seeds: Annotated[int, typer.Option(help="More fresh paired seeds.")] = 0,
    max_seconds: Annotated[float, typer.Option(help="More seconds for each arm.")] = 0.0,
    watch: WatchOption = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Add trials, seeds or seconds to a job that has succeeded. Its next verdict is tested at half the level.

    Example: warptune extend job-0123456789abcdef --seeds 10 --watch
    """
    with connected(url) as client:
        client.extend(job, {"trials": trials, "seeds": seeds, "max_seconds": max_seconds})
        _print_or_watch(client, job, watch)


def jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list.")] = 20,
    url: Url = DEFAULT_URL,
) -> None:
    """List the jobs, newest first.

    Example: warptune jobs --state running
    """
    with connected(url) as client:
        found = list(islice(client.jobs(state), limit))
        for item in found:
            line = f"{item['id']}  {item['state']:<9}  {item['created_at'][:16]}  {item['dataset']}  {item['name']}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    if not found:
        err.print(f"There are no {state} jobs." if state else "There are no jobs. Queue one: warptune submit SPEC")


def cancel(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Stop a job. The trials that it has finished are kept."""
    with connected(url) as client:
        state = client.cancel(job)["state"]
    stops = "" if state == JobState.CANCELLED else ", stops in a moment"
    out.print(f"{job} {state}{stops}", highlight=False, markup=False)


def delete(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Delete a job with its trials and files. Cancel a running job first."""
    with connected(url) as client:
        client.delete(job)
    out.print(f"{job} deleted", highlight=False, markup=False)


def show(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Show the state of a job, its arms, and its recommendation once it has succeeded."""
    from service.cli.display import show_job, show_recommendation

    with connected(url) as client:
        answer = client.job(job)
        show_job(out, answer)
        if answer["state"] == "succeeded":
            show_recommendation(out, client.recommendation(job))


def _print_or_watch(client: Client, job_id: str, watch: bool) -> None:
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
        out.print(f"stopped watching; the job still runs. Show it: warptune show {job_id}", highlight=False)
        raise typer.Exit(128 + signal.SIGINT) from None
    if job["state"] != "succeeded":
        raise failure(f"the job {job['state']}" + (f": {job['cause']}" if job["cause"] else ""))
    show_recommendation(out, client.recommendation(job_id))
