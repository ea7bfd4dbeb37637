"""The page of a job: its answer, or how far it is, and its trials."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from service.api import jobs, results
from service.api.deps import DatabaseDep, ImportancesDep, JobId, MayChangeDep
from service.api.pages import charts
from service.api.pages.render import PageRoute, page_of
from service.api.pages.search import NOT_COMPLETE, read_search
from service.api.pages.standing import newest_event, standing_of
from service.api.views import JobView
from service.db.session import Database
from service.errors import ConflictError
from service.result.effects import figure, score_label, search_figure
from service.result.job_result import JobResult
from service.spec.job import JobSpec
from service.spec.metrics import METRICS, metric_of
from service.states import ENDED_JOB, JobState, count_ended

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/jobs/{job_id}")
def show_job(job_id: JobId, db: DatabaseDep, importances: ImportancesDep, may_change: MayChangeDep) -> HTMLResponse:
    """Show the answer of a job, or how far it is, and its trials."""
    seen = newest_event(db, job_id)  # before the rest, so that the page shows at least what it led to
    job = jobs.get_job(job_id, db)
    result = _result(db, job)
    progress, minutes_left = standing_of(db, job_id)
    metric = _metric(job)
    entry = metric_of(metric)
    value_label = entry.label if entry else "validation loss"
    search = read_search(db, job, importances, value_label)
    code, formats = results.code_and_formats(job_id, db) if result else (None, [])
    return page_of(
        "job",
        job=job,
        seen=seen,
        may_change=may_change,
        ended=job.state in ENDED_JOB,
        result=result,
        reasons=_clauses(result) if result else [],
        code=code,
        formats=formats,
        forest=charts.forest(result) if result else None,
        search=search,
        total=sum(sum(arm.trials.values()) for arm in job.arms),
        not_complete=sum(arm.trials.get(state, 0) for arm in job.arms for state in NOT_COMPLETE),
        count_ended=count_ended,
        progress=progress,
        minutes_left=minutes_left,
        value=lambda cost: search_figure(metric, cost, 4),
        value_label=value_label,
        loss=lambda loss: figure(loss, None),
        score=lambda found: figure(found, METRICS.get((result.score if result else None) or "")),
        score_label=score_label(result.score) if result else "",
    )


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
