"""Routes of the pages. That of a job is in job.py."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from pydantic import BeforeValidator, Field

from service.api import compare, datasets
from service.api.deps import DatabaseDep, MayChangeDep, PageQuery, StrictQuery, Text
from service.api.pages import job, sign_in
from service.api.pages.render import ASSETS, FOLDER, PageRoute, page_of
from service.api.pages.standing import list_jobs
from service.data.catalog import BUNDLED
from service.errors import NotFoundError
from service.result.compared import table
from service.spec.job import Tags
from service.spec.metrics import METRICS
from service.states import ENDED_JOB, JobState

EXAMPLES: Final = ("wine", "digits", "diabetes")
"""Bundled datasets with which one can try the service."""

LISTED: Final = 30
"""Jobs and datasets on the home page."""

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)


def install(app: FastAPI) -> None:
    """Add the pages, with their style sheet and script, to the application."""
    app.include_router(router)
    app.mount("/assets", ASSETS)


def _given(value: object) -> object:
    """Return what a form sends, without the fields that were left empty."""
    return [item for item in value if item] if isinstance(value, list) else value or None


class HomeQuery(StrictQuery):
    """Which jobs to list."""

    state: Annotated[JobState | None, BeforeValidator(_given)] = None
    tag: Annotated[Tags, BeforeValidator(_given)] = Field([])


@router.get("/")
def home(db: DatabaseDep, may_change: MayChangeDep, wanted: Annotated[HomeQuery, Query()]) -> HTMLResponse:
    """Show how to start, and how the jobs stand."""
    listed = list_jobs(db, LISTED, wanted.state, wanted.tag)
    files = datasets.list_datasets(db, PageQuery(limit=LISTED))
    return page_of(
        "home",
        jobs=listed,
        moves=any(entry.job.state not in ENDED_JOB for entry in listed),
        datasets=files.items,
        names={dataset.id: dataset.name for dataset in files.items},
        examples=EXAMPLES,
        states=list(JobState),
        wanted=wanted,
        may_change=may_change,
    )


@router.get("/favicon.ico")
def icon() -> FileResponse:
    """Answer what browsers ask for by themselves."""
    return FileResponse(FOLDER / "icon.svg")


@router.get("/redoc")
def redoc() -> RedirectResponse:
    """Lead to the one document of the API."""
    return RedirectResponse("/docs")


@router.get("/compare")
def compare_page(db: DatabaseDep, wanted: Annotated[compare.CompareQuery, Query()]) -> HTMLResponse:
    """Show jobs side by side."""
    compared = compare.compare(db, wanted)
    return page_of("compare", compared=compared, rows=table(compared))


class NewQuery(StrictQuery):
    """What the new job is about: an uploaded dataset by id, or a bundled one by name."""

    id: Text | None = None
    name: Text | None = None


@router.get("/new")
def new_job(db: DatabaseDep, may_change: MayChangeDep, wanted: Annotated[NewQuery, Query()]) -> HTMLResponse:
    """Show a dataset, and the form of a job about it."""
    metrics = [(metric.field, metric.label, metric.tasks) for metric in METRICS.values()]
    if wanted.id is not None:
        dataset = datasets.get_dataset(wanted.id, db)
        return page_of(
            "new",
            dataset=dataset,
            data=dataset.model_dump(mode="json"),
            to_check=[column.name for column in dataset.columns if column.role == "left out" or column.warnings],
            metrics=metrics,
            info=None,
            may_change=may_change,
        )
    if wanted.name is None or wanted.name not in BUNDLED:
        raise NotFoundError(f"there is no bundled dataset {wanted.name!r}; upload a file, or choose an example")
    info = BUNDLED[wanted.name].info
    data: dict[str, object] = {"name": wanted.name, "task": info.task, "model": datasets.MODELS["rows"], "columns": []}
    return page_of("new", dataset=None, data=data, metrics=metrics, info=info, may_change=may_change)


router.include_router(job.router)
router.include_router(sign_in.router)
