# The commands that send a job, follow it and end it.
"""``submit``, ``jobs``, ``show``, ``extend``, ``cancel``, ``delete``."""

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

Watch = Annotated[bool, typer.Option("--watch", help="Stay until the job has ended.")]


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
        raise failure(f"cannot read {spec}: {error.strerror}", 2) from None
    except ValueError as error:
        raise failure(str(error), 2) from None
    with connected(url) as client:
        if dry_run:
            show_estimate(out, client.estimate(body))
        else:
            _queued(client, client.submit(body)["id"], watch)


def extend(
    job: JobArgument,
    trials: Annotated[int, typer.Option(help="More trials for each arm.")] = 0,
    seeds: Annotated[int, typer.Option(help="More fresh paired seeds.")] = 0,
    max_seconds: Annotated[float, typer.Option(help="More seconds for each arm.")] = 0.0,
    watch: Watch = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Add to a job that has succeeded; its next verdict is tested at half the level."""
    with connected(url) as client:
        client.extend(job, {"trials": trials, "seeds": seeds, "max_seconds": max_seconds})
        _queued(client, job, watch)


def jobs(
    state: Annotated[JobState | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    url: Url = DEFAULT_URL,
) -> None:
    """List the jobs, the newest first."""
    with connected(url) as client:
        found = list(islice(client.jobs(state), limit))
        for item in found:
            line = f"{item['id']}  {item['state']:<9}  {item['created_at'][:16]}  {item['dataset']}  {item['name']}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    if not found:
        err.print(f"no {state} jobs" if state else "no jobs")


def cancel(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Stop a job; what it has found so far stays."""
    with connected(url) as client:
        state = client.cancel(job)["state"]
    ended = "" if state == JobState.CANCELLED else ", and will be stopped in a moment"
    out.print(f"{job} {state}{ended}", highlight=False, markup=False)


def delete(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Delete a job that does not run, with its trials and files."""
    with connected(url) as client:
        client.delete(job)
    out.print(f"{job} deleted", highlight=False, markup=False)


def show(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Show how a job stands, and its recommendation when there is one."""
    from service.cli.display import show_job, show_recommendation

    with connected(url) as client:
        answer = client.job(job)
        show_job(out, answer)
        if answer["state"] == "succeeded":
            show_recommendation(out, client.recommendation(job))


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
        raise failure(f"the job {job['state']}" + (f": {job['cause']}" if job["cause"] else ""))
    show_recommendation(out, client.recommendation(job_id))
