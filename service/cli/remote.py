"""The commands that ask a running service: about jobs, their results, and uploaded datasets."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.console import (
    DEFAULT_URL,
    AsJson,
    JobArgument,
    Url,
    check_file,
    check_output,
    connected,
    failure,
    job_id,
    out,
    say,
    say_err,
    say_json,
    write_output,
)
from service.cli.reading import with_reading
from service.client.answers import place_in_queue
from service.states import JobState

if TYPE_CHECKING:
    from service.client.rest import Client

Format = StrEnum("Format", ["JSON", "YAML", "TOML", "PYTHON", "SAFETENSORS", "ZIP"])
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
    from service.data.upload import format_of

    check_file(spec)
    if format_of(spec.name) is not None:
        make = f"warptune tune {spec} --target COLUMN, or make a spec for it: warptune init {spec} --target COLUMN"
        raise failure(f"{spec} has data, not the spec of a job; tune on it: {make}", 2)
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
            _announce(client, client.submit(body)["id"], watch)


def extend(
    job: JobArgument,
    trials: Annotated[int, typer.Option(help="More trials for each arm.")] = 0,
    seeds: Annotated[int, typer.Option(help="More fresh paired seeds.")] = 0,
    max_seconds: Annotated[float, typer.Option(help="More seconds for each arm.")] = 0.0,
    watch: WatchOption = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Add trials, seeds or seconds to a job that has succeeded. Its failed confirmation runs run again.

    A verdict on new runs is tested at half the level.

    Example: warptune extend job-0123456789abcdef --seeds 10 --watch
    """
    with connected(url) as client:
        job = job_id(client, job)
        client.extend(job, {"trials": trials, "seeds": seeds, "max_seconds": max_seconds})
        _announce(client, job, watch)


def jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only jobs with this tag; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list.")] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the jobs, newest first.

    Example: warptune jobs --state running --tag churn
    """
    with connected(url) as client:
        found = list(islice(client.jobs(state, tags=tag or []), limit))
        if as_json:
            say_json(found)
            return
        for item in found:
            words = "".join(f"  #{word}" for word in item["tags"])
            say(
                f"{item['id']}  {item['state']:<9}  {item['created_at'][:16]}  {item['dataset']}  "
                f"{item['name']}{words}{place_in_queue(item)}"
            )
    if not found:
        wanted = " ".join(filter(None, [state, "jobs", *(f"with the tag {word}" for word in tag or [])]))
        say_err(f"There are no {wanted}." + ("" if state or tag else " Queue one: warptune submit SPEC"))


def stop(job: JobArgument, watch: WatchOption = False, url: Url = DEFAULT_URL) -> None:
    """End the search of a job early, and judge the trials so far.

    Trials that run are finished. Arms that were not searched yet get as many trials as the others count.

    Example: warptune stop @latest --watch
    """
    with connected(url) as client:
        job = job_id(client, job)
        state = client.stop(job)["state"]
        if watch:
            _announce(client, job, watch)
        else:
            say(f"{job} {state}, the search ends early" if state != JobState.VERIFYING else f"{job} {state}")


def pause(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Pause a job. Nothing is lost: `warptune resume` goes on with it, on any worker."""
    with connected(url) as client:
        job = job_id(client, job)
        state = client.pause(job)["state"]
    say(f"{job} {state}" if state == JobState.PAUSED else f"{job} {state}, pauses in a moment")


def resume(job: JobArgument, watch: WatchOption = False, url: Url = DEFAULT_URL) -> None:
    """Go on with a paused job.

    Example: warptune resume @latest --watch
    """
    with connected(url) as client:
        job = job_id(client, job)
        state = client.resume(job)["state"]
        if watch:
            _announce(client, job, watch)
        else:
            say(f"{job} {state}")


def cancel(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Stop a job. The trials that it has finished are kept."""
    with connected(url) as client:
        job = job_id(client, job)
        state = client.cancel(job)["state"]
    say(f"{job} {state}" if state == JobState.CANCELLED else f"{job} {state}, stops in a moment")


def retry(job: JobArgument, watch: WatchOption = False, url: Url = DEFAULT_URL) -> None:
    """Run a failed or cancelled job again, from where it stood. Its finished trials are kept.

    Example: warptune retry @latest --watch
    """
    with connected(url) as client:
        job = job_id(client, job)
        state = client.retry(job)["state"]
        if watch:
            _announce(client, job, watch)
        else:
            say(f"{job} {state}")


def delete(
    job: JobArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a job with its trials and files, after asking. Cancel a running job first."""
    with connected(url) as client:
        job = job_id(client, job)
        if not yes:
            name = client.job(job)["name"]
            typer.confirm(f"Delete {job} ({name}) with its trials and files?", abort=True, err=True)
        client.delete(job)
    say(f"{job} deleted")


def show(job: JobArgument, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Show the state of a job, its arms, and its recommendation once it has succeeded.

    Example: warptune show @latest
    """
    from service.cli.display import show_job, show_recommendation

    with connected(url) as client:
        job = job_id(client, job)
        answer = client.job(job)
        result = client.recommendation(job) if answer["state"] == "succeeded" else None
        if as_json:
            say_json({**answer, "recommendation": result and result.to_json()})
            return
        show_job(out, answer)
        if result:
            show_recommendation(out, result)


def watch(job: JobArgument, url: Url = DEFAULT_URL) -> None:
    """Show the progress of a job until it has ended, then its recommendation. Ctrl-C leaves the job running.

    Example: warptune watch @latest
    """
    with connected(url) as client:
        found = client.job(job_id(client, job))  # while it is followed, a service that is away is waited for
        follow(client, found["id"])


def open_page(job: Annotated[str | None, typer.Argument(metavar="[JOB]")] = None, url: Url = DEFAULT_URL) -> None:
    """Open the page of a job in the browser, or the page with all jobs.

    Example: warptune open @latest
    """
    with connected(url) as client:
        page = f"{client.url}/jobs/{job_id(client, job)}" if job else f"{client.url}/"
    say(page)
    if out.is_terminal:
        typer.launch(page)


def trials(
    job: JobArgument,
    csv: Annotated[bool, typer.Option("--csv", help="Print them as CSV, with a column for each setting.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the trials of a job, the best first.

    Example: warptune trials @latest --csv > trials.csv
    """
    from service.cli.display import show_trials, write_trials

    with connected(url) as client:
        found = list(client.trials(job_id(client, job)))
    if as_json:
        say_json(found)
    elif csv:
        write_trials(found)
    else:
        show_trials(out, found)


def logs(job: JobArgument, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Print what happened to a job, and why trials of it did not complete, with tracebacks.

    Example: warptune logs @latest
    """
    from service.cli.display import describe_event, describe_failure

    with connected(url) as client:
        job = job_id(client, job)
        events = list(client.events(job))
        failed = [trial for trial in client.trials(job) if trial["state"] in ("failed", "diverged")]
    if as_json:
        say_json({"events": events, "failed_trials": failed})
        return
    for line in (*map(describe_event, events), *map(describe_failure, failed)):
        say(line)


def audit(
    who: Annotated[str | None, typer.Option(help="Only this key, by its id; or local, or nobody.")] = None,
    project: Annotated[str | None, typer.Option(help="Only this project.")] = None,
    operation: Annotated[str | None, typer.Option(help="Only this operation, such as submit_job.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only from this time on, in UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most lines to print.")] = 100,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print who changed what, and who was refused, the newest first. It needs a key with the scope admin.

    Example: warptune audit --project vision --since 2026-11-01
    """
    from service.cli.display import describe_audit

    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    start = None if since is None else since.isoformat()
    with connected(url) as client:
        lines = list(islice(client.audit(who, project, operation, start), limit))
    if as_json:
        say_json(lines)
        return
    for line in lines:
        say(describe_audit(line))


def compare(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB JOB ...", help="Two to ten jobs: ids, names, or @latest.")],
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show jobs side by side: which is best, and the settings in which they differ.

    Example: warptune compare wide-mlp narrow-mlp
    """
    from service.cli.display import show_comparison

    with connected(url) as client:
        compared = client.compare([job_id(client, job) for job in jobs])
    if as_json:
        say_json(compared.model_dump(mode="json"))
    else:
        show_comparison(out, compared)


def export(
    job: JobArgument,
    fmt: Annotated[Format, typer.Option("--format", "-f", help="Form of the file.")] = Format.JSON,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: standard output.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Write the recommended config of a job to a file: as data, a script, its learned P, or everything in a zip."""
    check_output(output)
    with connected(url) as client:
        write_output(client.export(job_id(client, job), fmt), output)


def report(
    job: JobArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("report.html"),
    url: Url = DEFAULT_URL,
) -> None:
    """Write the report of a job that has succeeded: one HTML file that you can open offline."""
    check_output(output)
    with connected(url) as client:
        write_output(client.report(job_id(client, job)), output)


@with_reading
def upload(
    file: Annotated[
        str, typer.Argument(help="CSV, Excel, Parquet, Feather, NPZ or text file, zip of image folders, or a URL.")
    ],
    fmt: Annotated[
        str | None,
        typer.Option("--format", help="csv, excel, parquet, feather, npz, text, images. Default: from the name's end."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels of both sides that images are scaled to.")] = None,
    url: Url = DEFAULT_URL,
    *,
    reading: dict[str, object],
) -> None:
    """Upload a dataset and print its id, for the field dataset.id of a job's spec; then what its columns are taken for.

    Example: warptune upload measurements.csv
    """
    from service.cli.display import show_columns

    options = reading if image_size is None else {**reading, "image_size": image_size}
    if "://" not in file:
        check_file(file)
    with connected(url) as client:
        try:
            dataset, is_new = client.upload(file, fmt, options)
        except OSError as error:
            raise failure(f"cannot read {file}: {error.strerror or error}", 2) from None
    say(dataset["id"])
    if not is_new:
        known_as = dataset["name"]
        say_err(f"the same file was uploaded before, as {known_as}")
    if dataset["layout"] == "table" and out.is_terminal:  # a script gets the id alone
        show_columns(out, dataset["columns"], dataset["warnings"])


def datasets(
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="Id of a dataset, to show its columns.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """List the uploaded datasets, newest first; or show what the columns of one are taken for.

    Example: warptune datasets ds-0123456789abcdef
    """
    with connected(url) as client:
        if dataset is not None:
            _show_dataset(client.dataset(dataset))
            return
        found = list(client.datasets())
        for item in found:
            say(f"{item['id']}  {item['rows']:>9} rows  {item['format']:<8} {item['name']}")
    if not found:
        say_err("There are no datasets. Upload one: warptune upload FILE")


def _show_dataset(dataset: Mapping[str, Any]) -> None:
    from service.cli.display import show_columns

    say(f"{dataset['id']}  {dataset['rows']} rows  {dataset['format']}  {dataset['name']}")
    if found := {name: value for name, value in dataset["reading"].items() if value is not None}:
        say("read with " + ", ".join(f"{name} {value!r}" for name, value in found.items()))
    show_columns(out, dataset["columns"], dataset["warnings"])


def catalog(
    as_json: AsJson = False,
    url: Annotated[
        str | None, typer.Option(envvar="WARPTUNE_URL", help="URL of a service. Default: ask this installation.")
    ] = None,
) -> None:
    """List what a spec may name: datasets, models, search spaces, optimizers, metrics, learners.

    Example: warptune catalog
    """
    from service.cli.display import show_catalog

    if url is None:
        from service.api.catalog import catalog as names

        known = names().model_dump(mode="json")
    else:
        with connected(url) as client:
            known = client.catalog()
    if as_json:
        say_json(known)
    else:
        show_catalog(out, known)


def delete_dataset(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of an uploaded dataset.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Delete an uploaded dataset. A dataset that a job uses cannot be deleted."""
    with connected(url) as client:
        client.delete_dataset(dataset)
    say(f"{dataset} deleted")


def _announce(client: Client, job: str, watched: bool) -> None:
    """Print the id of a job; or where its page is, and follow it."""
    if not watched:
        say(job)
        return
    say(f"job {job}  {client.url}/jobs/{job}")
    follow(client, job)


def follow(client: Client, job: str, *, is_ours: bool = False) -> None:
    """Show the progress of a job, then its recommendation. Ctrl-C cancels a job that only this command runs."""
    from service.cli.display import show_recommendation
    from service.cli.display import watch as draw

    try:
        ended = draw(out, client.watch(job))
    except KeyboardInterrupt:
        if is_ours:
            client.cancel(job)
            say_err(
                f"stopped; the trials of {job} so far are kept. To go on: warptune serve, then warptune retry {job}"
            )
        else:
            say_err(f"stopped watching; the job still runs. Show it: warptune show {job}")
        raise typer.Exit(128 + signal.SIGINT) from None
    if ended["state"] != "succeeded":
        raise failure(f"the job {ended['state']}" + (f": {ended['cause']}" if ended["cause"] else ""))
    show_recommendation(out, client.recommendation(job))
