"""Routes of liveness and readiness, for programs that restart this process or send requests to it."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError

from service.api.deps import ArtifactsDep, DatabaseDep
from service.api.problems import problem, responses
from service.api.views import Health, Ready
from service.version import VERSION

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """Tell that the process is alive."""
    return Health(version=VERSION)


@router.get("/readyz", response_model=Ready, responses=responses(HTTPStatus.SERVICE_UNAVAILABLE))
def readyz(db: DatabaseDep, artifacts: ArtifactsDep) -> Ready | JSONResponse:
    """Tell whether the database and the artifact store can be used."""
    try:
        db.ping()
        artifacts.check()
    except (SQLAlchemyError, OSError) as error:
        log.warning("not ready", exc_info=error)
        detail = f"the database or the artifact store fails with {type(error).__name__}; see the log of the service"
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", detail)
    return Ready()
