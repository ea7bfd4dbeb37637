"""The route that puts jobs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, cast

from annotated_types import Len
from fastapi import APIRouter, Query
from pydantic import AfterValidator, Field, StringConstraints
from sqlalchemy.orm import Session

from service.api.deps import DatabaseDep, StrictQuery
from service.api.problems import responses
from service.db.models import Job
from service.db.session import Database
from service.errors import OtherVersionError
from service.ledger import datasets, queries
from service.ledger.jobs import require_job
from service.planning.plan import plan_of
from service.result.compared import Entry, JobComparison, compare_jobs
from service.result.job_result import JobResult
from service.states import JobState

MAX_COMPARED: Final = 10
"""Most jobs side by side."""

Ids = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00]*$")]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


def _split(given: list[str]) -> list[str]:
    """Return the ids of ``ids=a,b`` and of ``ids=a&ids=b``, as a form sends them."""
    ids = [part for text in given for part in text.split(",") if part]
    if not 2 <= len(set(ids)) == len(ids) <= MAX_COMPARED:
        raise ValueError(f"must name 2 to {MAX_COMPARED} different jobs, separated by commas")
    return ids


class CompareQuery(StrictQuery):
    """Which jobs to compare."""

    ids: Annotated[list[Ids], Len(1, MAX_COMPARED), AfterValidator(_split)] = Field(
        description=f"Ids of 2 to {MAX_COMPARED} jobs, separated by commas."
    )


@router.get("/compare", responses=responses(404, 422))
def compare(db: DatabaseDep, wanted: Annotated[CompareQuery, Query()]) -> JobComparison:
    """Put jobs side by side: data, metric, best arm, tested scores, verdict, and the settings that differ."""
    with db.read() as session:
        rows = [require_job(session, job_id) for job_id in wanted.ids]
        found = {row.id: _result(session, row) for row in rows}
    return compare_jobs([_entry(db, row, found[row.id]) for row in rows])


def _result(session: Session, row: Job) -> JobResult | None:
    try:
        return queries.result(session, row) if row.state == JobState.SUCCEEDED else None
    except OtherVersionError:
        return None


def _entry(db: Database, row: Job, result: JobResult | None) -> Entry:
    try:
        plan = plan_of(row.spec, row.dataset_info)
        spec, task = plan.spec.to_json(), str(plan.task)
    except OtherVersionError:
        spec, task = dict(row.spec), None
    uploaded = datasets.find(db, row.dataset)
    data = f"{uploaded.name} ({uploaded.id})" if uploaded else row.dataset
    sources = cast("Mapping[str, str]", (row.dataset_info or {}).get("sources") or {})
    return Entry(row.id, row.name, row.state, data, task, spec, result, sources)
