"""Jobs side by side: what each one found, whether their scores can be compared, and in what they differ.

The answer of ``GET /v1/jobs/compare``, which the page and the command line show with :func:`table`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import JsonValue

from service.result.effects import figure, score_label
from service.result.job_result import JobResult, JudgedPart, Part, Word
from service.spec.metrics import METRICS, metric_of
from service.states import JobState

DATA_FIELDS: Final = ("name", "id", "entrypoint", "config", "target", "task", "split", "target_transform")
"""Fields of ``dataset`` that decide what is predicted on which rows. The others choose among the inputs."""

NOT_COMPARED: Final = ("name", "tags", "priority", "notify")
"""Fields of a spec that do not change what a job does."""


class Tested(Part):
    """What the recommended config got on the test parts of its confirmation runs."""

    mean: float
    """Mean over the runs."""
    interval: tuple[float, float] | None
    """95 % interval of this mean; None if fewer than two runs have a value."""


class ComparedJob(Part):
    """One of the jobs."""

    id: str
    """Id of the job."""
    name: str
    """Its name."""
    state: JobState
    """How it stands."""
    data: str
    """Its dataset; an uploaded one with the name of the file."""
    task: str | None
    """What its models learn; None if another version of the service made the job."""
    metric: str
    """What its trials are judged by."""
    verdict: Word | None
    """Whether P helps; None while the job has no result."""
    arm: str | None
    """The recommended arm."""
    part: JudgedPart
    """Part of the data that its runs on fresh seeds are judged on; a training loop of your own has validation only."""
    test_loss: Tested | None
    """Test loss of its recommended config."""
    score: str | None
    """Name of the score beside the loss, such as accuracy."""
    test_score: Tested | None
    """Test score of its recommended config."""
    settings: dict[str, JsonValue]
    """The fields of its spec in which the jobs differ."""
    config: dict[str, JsonValue]
    """The settings of its recommended optimizer in which the jobs differ."""


class JobComparison(Part):
    """Several jobs side by side."""

    jobs: list[ComparedJob]
    """The jobs, in the order in which they were asked for."""
    comparable: bool
    """Whether they have the same data, task and metric, so that one tested score may be called better. The code and the
    arguments of a training loop count as data, as does the code of a dataset."""
    best: str | None
    """Id of the job with the best tested score; None if they are not comparable, or fewer than two have a score."""
    summary: str
    """Which job is best, or why that cannot be said."""


class Entry(NamedTuple):
    """What a job brings to a comparison."""

    id: str
    name: str
    state: JobState
    data: str
    task: str | None
    spec: Mapping[str, Any]
    result: JobResult | None
    sources: Mapping[str, str]
    """Entrypoint of user code -> SHA-256 of its module."""


def compare_jobs(entries: Sequence[Entry]) -> JobComparison:
    """Put jobs side by side."""
    specs = [_flat(_without(entry.spec, NOT_COMPARED)) for entry in entries]
    configs = [_flat(entry.result.config) if entry.result else {} for entry in entries]
    fields, parameters = differing(specs), differing(list(filter(None, configs)))
    jobs = [
        _job(entry, {name: spec.get(name) for name in fields}, {name: config.get(name) for name in parameters})
        for entry, spec, config in zip(entries, specs, configs, strict=True)
    ]
    obstacle = _obstacle(entries)
    if obstacle is not None:
        return JobComparison(
            jobs=jobs, comparable=False, best=None, summary=f"These jobs cannot be compared: {obstacle}."
        )
    best = _best(jobs)
    return JobComparison(jobs=jobs, comparable=True, best=best.id if best else None, summary=_summary(jobs, best))


def table(compared: JobComparison) -> list[tuple[str, list[str]]]:
    """Return the rows of the comparison, each with its label and a text for each job."""
    jobs = compared.jobs
    scores = dict.fromkeys((job.part, job.score) for job in jobs if job.score and job.test_score)
    parts = dict.fromkeys(job.part for job in jobs if job.test_loss) or [jobs[0].part]
    rows = [
        ("state", [str(job.state) for job in jobs]),
        ("data", [job.data for job in jobs]),
        ("judged by", [_label(job.metric) for job in jobs]),
        ("does P help?", [job.verdict.replace("_", " ") if job.verdict else "-" for job in jobs]),
        ("best arm", [job.arm or "-" for job in jobs]),
    ]
    for part in parts:
        cells = [_written(job.test_loss if job.part == part else None, None) for job in jobs]
        rows.append((f"{part} loss", cells))
    for part, score in scores:
        cells = [_written(job.test_score if (job.part, job.score) == (part, score) else None, score) for job in jobs]
        rows.append((f"{part} {score_label(score)}", cells))
    settings = [name for name in jobs[0].settings if name not in ("dataset.name", "dataset.id")]  # the row "data"
    rows += [(name, [_plain(job.settings.get(name)) for job in jobs]) for name in settings]
    rows += [(f"best arm: {name}", [_plain(job.config.get(name)) for job in jobs]) for name in jobs[0].config]
    return rows


def _job(entry: Entry, settings: dict[str, JsonValue], config: dict[str, JsonValue]) -> ComparedJob:
    result = entry.result
    best = next((found for found in result.finalists if found.arm == result.arm), None) if result else None
    return ComparedJob(
        id=entry.id,
        name=entry.name,
        state=entry.state,
        data=entry.data,
        task=entry.task,
        metric=_metric(entry.spec),
        verdict=result.verdict if result else None,
        arm=result.arm if result else None,
        part=result.part if result else "test",
        test_loss=_tested(best.mean_test_loss, best.test_loss_interval) if best else None,
        score=result.score if result else None,
        test_score=_tested(best.mean_test_score, best.test_score_interval) if best else None,
        settings=settings,
        config=config,
    )


def _tested(mean: float | None, interval: tuple[float, float] | None) -> Tested | None:
    return None if mean is None else Tested(mean=mean, interval=interval)


def _metric(spec: Mapping[str, Any]) -> str:
    return str((spec.get("objective") or {}).get("metric", "val_loss"))


def _obstacle(entries: Sequence[Entry]) -> str | None:
    """Return why the scores of the jobs cannot be compared; None if they can."""
    data, makers, tasks, metrics = ([*dict.fromkeys(values)] for values in zip(*map(_identity, entries), strict=True))
    labels = [*dict.fromkeys(entry.data for entry in entries)]
    if len(labels) > 1:
        return f"their data differ ({'; '.join(labels)})"
    if len(data) > 1:
        return f"they use the same data in other ways ({_differing_in(data)})"
    if len(makers) > 1:
        return f"what makes their data is not the same ({_differing_in(makers)})"
    if len(tasks) > 1:
        return f"their models learn other things ({'; '.join(map(str, tasks))})"
    if len(metrics) > 1:
        return f"they are judged by other metrics ({'; '.join(map(_label, metrics))})"
    return None


def _differing_in(parts: Sequence[str]) -> str:
    return ", ".join(differing([json.loads(part) for part in parts]))


def _identity(entry: Entry) -> tuple[str, str, str | None, str]:
    """Return the data, as chosen and as made by user code, the task and the metric; the data as JSON."""
    dataset, model = entry.spec.get("dataset") or {}, entry.spec.get("model") or {}
    chosen = {"family": entry.spec.get("family"), **{f"dataset.{name}": dataset.get(name) for name in DATA_FIELDS}}
    is_loop = model.get("name") == "loop"
    maker = (model if is_loop else dataset).get("entrypoint") or ""
    made = {"model.config": model.get("config") if is_loop else None, f"the code of {maker}": entry.sources.get(maker)}
    return json.dumps(chosen, sort_keys=True), json.dumps(made, sort_keys=True), entry.task, _metric(entry.spec)


def _judged(job: ComparedJob) -> Tested | None:
    """Return the tested score that a job is judged by; the loss if it is judged by the loss or by a time."""
    return job.test_loss if metric_of(job.metric) is None else job.test_score


def _best(jobs: Sequence[ComparedJob]) -> ComparedJob | None:
    metric = metric_of(jobs[0].metric)
    sign = -1.0 if metric and metric.higher_is_better else 1.0
    ranked = sorted((sign * tested.mean, index) for index, job in enumerate(jobs) if (tested := _judged(job)))
    return jobs[ranked[0][1]] if len(ranked) > 1 else None


def _summary(jobs: Sequence[ComparedJob], best: ComparedJob | None) -> str:
    names = _names(jobs)
    missing = [names[job.id] for job in jobs if _judged(job) is None]
    waits = f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} no tested score yet" if missing else ""
    tested = _judged(best) if best else None
    if best is None or tested is None:
        return f"The scores can be compared once the jobs have succeeded: {waits}."
    metric = metric_of(best.metric)
    what = f"{best.part} {metric.label if metric else 'loss'}"
    near = [names[job.id] for job in jobs if job is not best and _overlap(tested, _judged(job))]
    sentences = [
        f"{names[best.id]} has the best {what}: {_written(tested, metric.name if metric else None, '95 % interval ')}."
    ]
    if near:
        sentences.append(f"Chance may explain the difference to {', '.join(near)}: the 95 % intervals overlap.")
    return " ".join([*sentences, *([f"{waits}."] if waits else [])])


def _overlap(one: Tested, other: Tested | None) -> bool:
    """Tell whether two intervals have something in common; two scores without intervals are taken to have."""
    if other is None:
        return False
    if one.interval is None or other.interval is None:
        return True
    return one.interval[0] <= other.interval[1] and other.interval[0] <= one.interval[1]


def _names(jobs: Sequence[ComparedJob]) -> dict[str, str]:
    """Return what each job is called: its name, or its id if others have the same name."""
    given = [job.name for job in jobs]
    return {job.id: job.name if given.count(job.name) == 1 else job.id for job in jobs}


def _label(metric: str) -> str:
    entry = metric_of(metric)
    return f"validation {entry.label}" if entry else metric.replace("val_loss", "validation loss").replace("_", " ")


def _written(tested: Tested | None, score: str | None, named: str = "") -> str:
    if tested is None:
        return "-"
    metric = METRICS.get(score or "")
    mean = figure(tested.mean, metric)
    if tested.interval is None:
        return mean
    low, high = (figure(end, metric) for end in tested.interval)
    return f"{mean} ({named}{low} to {high})"


def _plain(value: JsonValue) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def _without(spec: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name not in names}


def _flat(values: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Return the values by their dotted paths; a mapping without entries has none.

    >>> _flat({"budget": {"steps": 10}, "overrides": {}, "seed": 0})
    {'budget.steps': 10, 'seed': 0}
    """
    return dict(_paths(values, ""))


def _paths(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, JsonValue]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differing(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names whose values are not the same in all columns.

    >>> differing([{"lr": 0.1, "eps": 0}, {"lr": 0.2, "eps": 0}])
    ['lr']
    """
    names = dict.fromkeys(name for column in columns for name in column)
    return [name for name in names if len({json.dumps(column.get(name)) for column in columns}) > 1]
