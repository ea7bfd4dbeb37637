"""The layers around the routes, in their order. Each one is an ASGI middleware, explained where it is defined."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.exceptions import ExceptionMiddleware

from service.api import audit, dashboard, datasets, problems
from service.api.access import AccessCheck
from service.api.cache import CachedAnswers
from service.api.middleware import BodyDeadline, BodyLimit, HostCheck, SafeHeaders
from service.api.observed import Observed
from service.settings import Settings

METRICS_PATH = "/metrics"

FOR_ADMINS = (*dashboard.PREFIXES, METRICS_PATH, audit.PATH)
"""Beginnings of paths that need the scope ``admin``."""


def install(app: FastAPI, settings: Settings) -> None:
    """Put the layers around the routes, the innermost first."""
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, streamed=datasets.PATH)
    app.add_middleware(BodyDeadline)
    app.add_middleware(CachedAnswers)
    app.add_middleware(AccessCheck, for_admins=FOR_ADMINS)
    app.add_middleware(ExceptionMiddleware, handlers=problems.HANDLERS)  # for the errors of the check
    app.add_middleware(HostCheck, host=settings.host, allowed=settings.allowed_hosts)
    app.add_middleware(SafeHeaders, loose=("/docs",))
    app.add_middleware(audit.Audited)
    app.add_middleware(Observed, metrics=app.state.metrics)
