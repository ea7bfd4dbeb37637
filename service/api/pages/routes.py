"""Routes of the pages, and of their style sheet and script."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from service.api import datasets, jobs, results
from service.api.deps import DatabaseDep, JobId, PageQuery, StrictQuery, Text
from service.api.pages import charts
from service.api.pages.render import PageRoute, page_of
from service.api.views import JobView
from service.data.catalog import BUNDLED
from service.db.session import Database
from service.errors import ConflictError, NotFoundError
from service.result.effects import figure, score_label, search_figure
from service.result.job_result import ANSWERS, JobResult
from service.spec.job import JobSpec
from service.spec.metrics import METRICS, metric_of
from service.states import ENDED_JOB, JobState, count_ended

EXAMPLES: Final = ("wine", "digits", "diabetes")
"""Bundled datasets with which one can try the service."""

LISTED: Final = 30
"""Jobs and datasets on the home page."""

BEST_TRIALS: Final = 25
"""Trials on the page of a job."""


router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/")
def home(db: DatabaseDep) -> HTMLResponse:
    """Show how to start, and how the jobs stand."""
    listed = jobs.list_jobs(db, jobs.JobQuery(limit=LISTED))
    rows = [(job, *_standing(db, job.id)) for job in listed.items]
    files = datasets.list_datasets(db, PageQuery(limit=LISTED))
    names = {dataset.id: dataset.name for dataset in files.items}
    moves = any(job.state not in ENDED_JOB for job in listed.items)
    return page_of("home", jobs=rows, moves=moves, datasets=files.items, names=names, examples=EXAMPLES)


class NewQuery(StrictQuery):
    """What the new job is about: an uploaded dataset by id, or a bundled one by name."""

    id: Text | None = None
    name: Text | None = None


@router.get("/new")
def new_job(db: DatabaseDep, wanted: Annotated[NewQuery, Query()]) -> HTMLResponse:
    """Show a dataset, and the form of a job about it."""
    metrics = [(metric.field, metric.label, metric.tasks) for metric in METRICS.values()]
    if wanted.id is not None:
        dataset = datasets.get_dataset(wanted.id, db)
        return page_of("new", dataset=dataset, data=dataset.model_dump(mode="json"), metrics=metrics, info=None)
    if wanted.name is None or wanted.name not in BUNDLED:
        raise NotFoundError(f"there is no bundled dataset {wanted.name!r}; upload a file, or choose an example")
    info = BUNDLED[wanted.name].info
    data: dict[str, object] = {"name": wanted.name, "task": info.task, "model": datasets.MODELS["rows"], "columns": []}
    return page_of("new", dataset=None, data=data, metrics=metrics, info=info)


@router.get("/jobs/{job_id}")
def show_job(job_id: JobId, db: DatabaseDep) -> HTMLResponse:
    """Show the answer of a job, or how far it is, and its trials."""
    job = jobs.get_job(job_id, db)
    result = _result(db, job)
    metric = _metric(job)
    entry = metric_of(metric)
    trials = results.best_trials(job_id, db, BEST_TRIALS)
    return page_of(
        "job",
        job=job,
        ended=job.state in ENDED_JOB,
        result=result,
        reasons=_clauses(result) if result else [],
        answer=ANSWERS[result.verdict] if result else None,
        code=results.optimizer_code(job_id, db) if result else None,
        forest=charts.forest(result) if result else None,
        search=charts.search(
            [arm.name for arm in job.arms],
            results.trial_values(job_id, db),
            rises=bool(entry and entry.higher_is_better),
        ),
        trials=trials,
        parameters=_differing([trial.config for trial in trials]),
        count_ended=count_ended,
        progress=_progress(job),
        minutes_left=_minutes_left(job),
        value=lambda cost: search_figure(metric, cost, 4),
        value_label=entry.label if entry else "validation loss",
        score=lambda found: figure(found, METRICS.get((result.score if result else None) or "")),
        score_label=score_label(result.score) if result else "",
    )


def _standing(db: Database, job_id: str) -> tuple[float, str]:
    """Return how far a job of a list is, in percent, and its answer in a word, if it has one."""
    job = jobs.get_job(job_id, db)
    result = _result(db, job)
    return _progress(job), result.verdict if result else ""


def _clauses(result: JobResult) -> list[str]:
    """Return the clauses of the reason, without what the page says elsewhere."""
    return [clause for clause in result.reason.split("; ") if not clause.startswith("the recommendation is")]


def _result(db: Database, job: JobView) -> JobResult | None:
    if job.state != JobState.SUCCEEDED:
        return None
    try:
        return results.get_recommendation(job.id, db)
    except ConflictError:  # another version of the service made it
        return None


def _metric(job: JobView) -> str:
    return job.spec.objective.metric if isinstance(job.spec, JobSpec) else "val_loss"


def _counts(job: JobView) -> tuple[int, int]:
    """Return how many runs have ended, of how many; until the runs on fresh seeds are planned, as many as trials."""
    done = sum(count_ended(arm.trials) for arm in job.arms)
    caps = sum(arm.trials_cap for arm in job.arms)
    return done + job.confirm.done, caps + (job.confirm.planned or caps)


def _progress(job: JobView) -> float:
    done, planned = _counts(job)
    return 100.0 if job.state == JobState.SUCCEEDED else round(100 * min(1.0, done / planned)) if planned else 0.0


def _minutes_left(job: JobView) -> float | None:
    """Return a guess from the runs so far; None before there are some."""
    done, planned = _counts(job)
    if job.started_at is None or job.state in ENDED_JOB or done < 3:
        return None
    return (datetime.now(UTC) - job.started_at).total_seconds() / 60 * max(0, planned - done) / done


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """Return the parameters in which configs differ."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if len({json.dumps(config.get(name)) for config in configs}) > 1]
