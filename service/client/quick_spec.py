"""From an uploaded dataset to a job: a spec with the usual model, and a few lines that say what the job uses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service.client.answers import ArmEstimate, Dataset, Estimate
from service.client.calls import name_of

if TYPE_CHECKING:
    from service.client.rest import Client

STARTING: Final = "starting: reads the data and times a few steps"
"""What is said before the cost of a job is known."""

WARNING: Final = "  ! "
"""Beginning of a line about something that may have to be corrected."""


def make_spec(uploaded: Dataset, name: str, dataset: Mapping[str, object], **fields: object) -> dict[str, Any]:
    """Return the spec of a job on an uploaded dataset.

    Args:
        uploaded: The dataset.
        name: Name of the job, such as that of the file.
        dataset: Fields of ``dataset`` besides the id; those without a value are left out.
        fields: Other fields of the spec. Without ``model``, the one that the service suggests.
    """
    return {
        "name": re.sub(r"[\x00-\x1f\x7f-\x9f]", "", name)[-100:] or "untitled",
        "dataset": {"id": uploaded["id"], **{field: value for field, value in dataset.items() if value}},
        "model": uploaded["model"],
        **fields,
    }


def called(uploaded: Dataset, file: str | Path) -> Dataset:
    """Return a dataset under the name of its file. The service keeps the name of the first file with this content."""
    if "://" in str(file):
        return uploaded
    name, known_as = name_of(file), uploaded["name"]
    if name[-100:] == known_as:
        return uploaded
    return {**uploaded, "name": f"{name} (uploaded before as {known_as})"}


def describe(
    uploaded: Dataset, plan: Estimate, word: Callable[[str, str], str] = lambda note, _: note
) -> Iterator[str]:
    """Yield lines that say what a job uses and costs; what may have to be corrected begins with ``WARNING``.

    ``word`` puts a note about a column, or about the file if its name is empty, in the words of the caller's interface.
    """
    columns = plan["columns"]
    inputs = sum(column["role"] == "feature" for column in columns)
    given = f", {inputs} input{'' if inputs == 1 else 's'}" if inputs else ""
    rows = f"{uploaded['rows']:,} {'characters' if uploaded['layout'] == 'text' else 'rows'}"
    yield f"{uploaded['name']}  {rows}{given}, {plan['task']}"
    for column in columns:
        left_out = [f"left out, {column['reason']}"] if column["role"] == "left out" else []
        notes = column["warnings"] if not left_out or column["kind"] == "id" else []
        yield from (f"{WARNING}{column['name']}: {word(note, column['name'])}" for note in (*left_out, *notes))
    # a service of another version may send no warnings
    yield from (f"{WARNING}{word(note, '')}" for note in (*uploaded["warnings"], *plan.get("warnings", ())))
    yield from describe_cost(plan, word)
    if similar := plan.get("similar"):
        yield similar["sentence"]


def describe_earlier(client: Client, spec: Mapping[str, Any], *, is_private: bool) -> Iterator[str]:
    """Yield a line for each job that may run before one with this spec, which says how to end it.

    ``is_private`` says that the service is one for this program alone, and ends with it.
    """
    end_it = "warptune serve, then " if is_private else ""
    module = str(spec["model"].get("entrypoint", "")).partition(":")[0]
    for state in ("running", "verifying", "queued"):
        for job in client.jobs(state):
            if job.get("needs_module") in (None, module):  # others are for other workers
                hint = f"To end it: {end_it}warptune cancel {job['id']}"
                yield f"{WARNING}the earlier job {job['name']} is {state} and may run first. {hint}"


def describe_cost(plan: Estimate, word: Callable[[str, str], str] = lambda note, _: note) -> Iterator[str]:
    """Yield a line that says what a job costs, and one about trials for which its time limit is too short.

    If a tuned arm would get no trial at all, the only line says that the job would fail.
    """
    trials = plan["trials"]
    in_time = plan.get("trials_in_time", trials)  # a service of another version does not say it
    short = [] if in_time == trials else [arm for arm in plan["arms"] if arm["trials_in_time"] < arm["trials"]]
    without = [arm for arm in short if not arm["trials_in_time"]]
    none = f"no trial of {_listed(arm['name'] for arm in without)}"
    if any(arm["role"] != "untuned" for arm in without):
        why = f"{none} would be done within budget.max_seconds"
        yield f"{WARNING}{word(f'the job would probably fail: {why}; {_enough(short)}', '')}"
        return
    counted = f"{trials:,}" if in_time == trials else f"about {in_time:,} of {trials:,}"
    seconds = f"{plan['seconds']:.0f}" if plan["seconds"] >= 10 else f"{plan['seconds']:.2g}"
    yield f"{counted} trials and {plan['confirm_runs']} more runs, about {seconds} s"
    fit = _listed(
        f"about {arm['trials_in_time']:,} of {arm['trials']:,} trials of {arm['name']}"
        for arm in short
        if arm["trials_in_time"]
    )
    if fit:
        yield f"{WARNING}{word(f'only {fit} fit into budget.max_seconds; {_enough(short)}', '')}"
    elif without:
        yield f"{WARNING}{word(f'{none} fits into budget.max_seconds; {_enough(short)}', '')}"


def _listed(items: Iterable[str]) -> str:
    """Return items as they are listed in a sentence: "a, b and c"."""
    *others, last = [*items] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _enough(short: Sequence[ArmEstimate]) -> str:
    """Return what to do so that all trials of arms fit into the limit."""
    from service.spec.job import MAX_SECONDS  # only here: its import would make every command start later

    longest = max(arm["search_seconds"] for arm in short)
    rounded = float(f"{longest * 1.1:.2g}")
    if longest > MAX_SECONDS:
        allowed = f"at most {MAX_SECONDS:,} are allowed"
        return f"all would take about {rounded:,.0f} s, and {allowed}: give fewer trials or steps"
    return f"for all, it must be about {min(math.ceil(rounded), MAX_SECONDS)}"
