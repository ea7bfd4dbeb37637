"""Routes of the pages, and of their style sheet and script."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import jinja2
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from service.api import datasets, jobs, results
from service.api.deps import DatabaseDep, JobId, PageQuery, StrictQuery, Text
from service.api.pages import charts
from service.api.problems import STATUS
from service.api.views import JobView
from service.data.catalog import BUNDLED
from service.db.session import Database
from service.errors import ConflictError, NotFoundError, ServiceError
from service.ledger import queries
from service.result.effects import figure, percent, score_label, search_figure
from service.result.job_result import ANSWERS, JobResult
from service.spec.job import JobSpec
from service.spec.metrics import METRICS, metric_of
from service.states import ENDED_JOB, ENDED_TRIAL, JobState
from service.version import VERSION

ASSETS: Final = StaticFiles(directory=Path(__file__).parent / "assets")
"""Style sheet and script of the pages."""

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""A page runs no script but its own, also if someone gets text of theirs into it."""

EXAMPLES: Final = ("wine", "digits", "diabetes")
"""Bundled datasets with which one can try the service."""

LISTED: Final = 30
"""Jobs and datasets on the home page."""

BEST_TRIALS: Final = 25
"""Trials on the page of a job."""


class PageRoute(APIRoute):
    """A route whose errors are pages too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route."""
        handle = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
                return _page("error", status=int(status), title=_upper(str(error)))
            except RequestValidationError:
                return _page("error", status=404, title="There is nothing at this address")

        return page


router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/")
def home(db: DatabaseDep) -> HTMLResponse:
    """Show how to start, and how the jobs stand."""
    listed = jobs.list_jobs(db, jobs.JobQuery(limit=LISTED))
    rows = [(job, *_standing(db, job.id)) for job in listed.items]
    files = datasets.list_datasets(db, PageQuery(limit=LISTED))
    names = {dataset.id: dataset.name for dataset in files.items}
    return _page("home", jobs=rows, datasets=files.items, names=names, examples=EXAMPLES)


class NewQuery(StrictQuery):
    """What the new job is about: an uploaded dataset by id, or a bundled one by name."""

    id: Text | None = None
    name: Text | None = None


@router.get("/new")
def new_job(db: DatabaseDep, wanted: Annotated[NewQuery, Query()]) -> HTMLResponse:
    """Show a dataset, and the form of a job about it."""
    tasks = {name: metric.tasks for name, metric in METRICS.items()}
    metrics = [(metric.field, metric.label, tasks[metric.name]) for metric in METRICS.values()]
    if wanted.id is not None:
        dataset = datasets.get_dataset(wanted.id, db)
        return _page("new", dataset=dataset, data=dataset.model_dump(mode="json"), metrics=metrics, info=None)
    if wanted.name is None or wanted.name not in BUNDLED:
        raise NotFoundError(f"there is no bundled dataset {wanted.name!r}; upload a file, or choose an example")
    info = BUNDLED[wanted.name].info
    data: dict[str, object] = {"name": wanted.name, "task": info.task, "model": datasets.MODELS["rows"], "columns": []}
    return _page("new", dataset=None, data=data, metrics=metrics, info=info)


@router.get("/jobs/{job_id}")
def show_job(job_id: JobId, db: DatabaseDep) -> HTMLResponse:
    """Show the answer of a job, or how far it is, and its trials."""
    job = jobs.get_job(job_id, db)
    result = _result(db, job)
    metric = _metric(job)
    entry = metric_of(metric)
    trials = results.best_trials(job_id, db, BEST_TRIALS)
    with db.read() as session:
        values = queries.trial_values(session, job_id)
    return _page(
        "job",
        job=job,
        ended=job.state in ENDED_JOB,
        result=result,
        reasons=_clauses(result) if result else [],
        answer=ANSWERS[result.verdict] if result else None,
        code=results.optimizer_code(job_id, db) if result else None,
        forest=charts.forest(result) if result else None,
        search=charts.search([arm.name for arm in job.arms], values, rises=bool(entry and entry.higher_is_better)),
        trials=trials,
        parameters=_differing([trial.config for trial in trials]),
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
    """Return how many runs have ended, of how many."""
    done = sum(arm.trials.get(state, 0) for arm in job.arms for state in ENDED_TRIAL)
    caps = sum(arm.trials_cap for arm in job.arms)
    return done + job.confirm.done, caps + job.confirm.planned


def _progress(job: JobView) -> float:
    done, planned = _counts(job)
    return 100.0 if job.state == JobState.SUCCEEDED else round(100 * min(1.0, done / planned)) if planned else 0.0


def _minutes_left(job: JobView) -> float | None:
    """Return a guess from the runs so far; None before there are some."""
    from service.db.models import utc_now

    done, planned = _counts(job)
    if job.started_at is None or job.state in ENDED_JOB or done < 3:
        return None
    return (utc_now() - job.started_at).total_seconds() / 60 * max(0, planned - done) / done


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """Return the parameters in which configs differ."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if len({json.dumps(config.get(name)) for config in configs}) > 1]


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _page(template: str, status: int = 200, **values: object) -> HTMLResponse:
    content = _templates().get_template(f"{template}.html.jinja").render(version=VERSION, **values)
    return HTMLResponse(content, status, HEADERS)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("service", "api/pages/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=_as_json)
    environment.filters["share"] = percent
    environment.filters["upper_first"] = _upper
    return environment


def _as_json(value: object) -> object:
    assert isinstance(value, BaseModel)
    return value.model_dump(mode="json")
