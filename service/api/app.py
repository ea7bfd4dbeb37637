# Puts the API together. It never trains and never loads torch; that is the worker's slots' business.
"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from service.api import catalog, datasets, health, jobs, problems, results, trials
from service.api.dashboard import Dashboard
from service.api.hosts import HostCheck
from service.api.limits import BodyLimit
from service.artifacts import ArtifactStore
from service.data.url_source import UrlSource
from service.db.session import Database
from service.db.studies import Studies
from service.settings import Settings
from service.user_code.probe import UserCode
from service.version import VERSION

DESCRIPTION = """Tunes how WarpAdam's distortion matrix P is shaped and learned on your task, tunes the baselines with
the same budget, and says on fresh paired seeds whether P helps. Every error is a problem document (RFC 9457)."""


def create_app(settings: Settings, on_startup: Callable[[], None] | None = None) -> FastAPI:
    """Return the application.

    Args:
        settings: Settings of the process. The database's schema exists.
        on_startup: Called once, when the application starts.
    """
    database = Database(settings.database_url)
    studies = Studies(settings.database_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        if on_startup:
            on_startup()
        yield
        studies.close()
        database.close()

    app = FastAPIOffline(
        title="warptune",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        responses=problems.responses(HTTPStatus.FORBIDDEN, HTTPStatus.INTERNAL_SERVER_ERROR),
    )
    app.state.database = database
    app.state.studies = studies
    app.state.artifacts = ArtifactStore(settings.artifacts_url)
    app.state.user_code = UserCode(settings)
    app.state.url_source = UrlSource(settings.artifacts_url, settings.dataset_url_prefixes)
    app.state.max_dataset_bytes = settings.max_dataset_bytes
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, streamed=datasets.PATH)
    app.add_middleware(HostCheck, host=settings.host, allowed=settings.allowed_hosts)
    for module in (jobs, trials, results, datasets, catalog, health):
        app.include_router(module.router)

    @app.get("/", include_in_schema=False)
    def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    app.router.default = Dashboard(studies)  # gets what no route takes; a mount at / would also take their 405s
    return app
