"""Routes for programs that restart this process or send requests to it."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from sqlalchemy.exc import SQLAlchemyError

from service.api.deps import ArtifactsDep, DatabaseDep, MetricsDep
from service.api.problems import problem, responses
from service.api.views import Health, Ready
from service.db.studies import require_known_studies
from service.disk import require_room
from service.errors import DatabaseVersionError, StorageFullError, UnavailableError
from service.version import VERSION

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """Tell that the process is alive."""
    return Health(version=VERSION)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}, **responses(401, 503)},
)
def metrics(found: MetricsDep) -> Response:
    """Show how the service stands, in the text format of Prometheus. Needs the scope admin."""
    return Response(found.text(), media_type=CONTENT_TYPE)


@router.get("/readyz", response_model=Ready, responses=responses(503))
def readyz(request: Request, db: DatabaseDep, artifacts: ArtifactsDep) -> Ready | JSONResponse:
    """Tell whether the database and the artifact store can be used, and whether the disks have room."""
    try:
        db.ping()
        require_known_studies(db)
        require_room(request.app.state.settings)
        artifacts.check()
    except (UnavailableError, DatabaseVersionError, StorageFullError) as error:
        return problem(503, error.code, str(error))
    except (SQLAlchemyError, OSError) as error:
        log.warning("not ready", exc_info=error)
        detail = f"the database or the artifact store fails with {type(error).__name__}; see the log of the service"
        return problem(503, "not_ready", detail)
    return Ready()
