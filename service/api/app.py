"""Builds the FastAPI application. The API never trains and never imports torch; workers do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.api import audit, catalog, compare, dashboard, datasets, events, health, jobs, layers, problems, results
from service.api.deps import close_dependencies, open_dependencies
from service.api.pages import routes
from service.settings import Settings
from service.version import VERSION

DESCRIPTION = """Finds out whether WarpAdam's learned preconditioner P helps on your task. It tunes WarpAdam and the
baselines with the same budget, and compares them on fresh seeds. Every error is a problem document (RFC 9457)."""


def create_app(settings: Settings, on_startup: Callable[[], None] | None = None) -> FastAPI:
    """Return the application. The schema of the database must exist."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if on_startup:
            on_startup()
        yield
        close_dependencies(app)

    app = FastAPIOffline(
        redoc_url=None,  # its script loads a logo from elsewhere
        favicon_url="/favicon.ico",
        title="warptune",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses=problems.responses(403, 500),
    )
    open_dependencies(app, settings)
    app.state.is_stopping = lambda: False
    problems.install(app)
    layers.install(app, settings)
    for module in (compare, jobs, events, results, datasets, catalog, audit):
        app.include_router(module.router, responses=problems.responses(401, 429))
    app.include_router(health.router)
    routes.install(app)
    # It gets what matches no route. A mount at / would also take over the 405 answers of the routes.
    app.router.default = dashboard.Dashboard(app.state.studies)
    return app
