"""The dependencies and common parameters of the routes, as Annotated types."""

from __future__ import annotations

from typing import Annotated, Any, Final

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.api.metrics import Metrics
from service.api.pages.importance import Importances
from service.api.rate_limits import RateLimits
from service.artifacts import ArtifactStore
from service.data.reader import Readers
from service.data.upload import UrlSource
from service.db.commits import last_commit
from service.db.session import Database
from service.db.studies import Studies
from service.disk import require_room
from service.ledger.keys import Access, Scope
from service.settings import Settings
from service.user_code.probe import UserCode

WAIT_S: Final = 4.0
"""Seconds that a request waits for the database before it is answered with 503."""


def open_dependencies(app: FastAPI, settings: Settings) -> None:
    """Make what the routes depend on, and keep it on ``app.state``."""
    app.state.settings = settings
    app.state.database = Database(settings.database_url, WAIT_S)
    app.state.last_commit = last_commit(app.state.database)
    app.state.studies = Studies(settings.database_url, WAIT_S)
    app.state.artifacts = ArtifactStore(settings.artifacts_url)
    app.state.user_code = UserCode(settings)
    app.state.readers = Readers(settings)
    app.state.reading = CapacityLimiter(settings.readers)
    app.state.rate_limits = RateLimits(settings)
    app.state.private_key = None  # bytes of a key that is in no database, for the process that started this one
    app.state.importances = Importances()
    app.state.metrics = Metrics(settings, app.state.database, app.state.artifacts)


def close_dependencies(app: FastAPI) -> None:
    """Close every connection to the database."""
    app.state.importances.close()
    app.state.studies.close()
    app.state.last_commit.close()
    app.state.database.close()


def _kept(name: str) -> Any:
    """Return the dependency on what :func:`open_dependencies` keeps under ``name``.

    It is a coroutine, as others here that wait for nothing: FastAPI would call a function in a thread.
    """

    async def get(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(get)


async def _database(request: Request) -> Database:
    """Return the database as the sender of the request may use it. No route takes the one on ``app.state``."""
    access = request.state.access
    database: Database = request.app.state.database
    return database.of(access.project, sees_all=access.sees_all)


async def _url_source(request: Request) -> UrlSource:
    """Return where datasets may be read from. The artifact store has the files of all projects."""
    settings: Settings = request.app.state.settings
    return UrlSource(settings.artifacts_url if request.state.access.sees_all else None, settings.dataset_url_prefixes)


async def _may_change(request: Request) -> bool:
    """Return whether the sender of the request may do more than read."""
    access: Access = request.state.access
    return access.scope.includes(Scope.SUBMIT)


MayChangeDep = Annotated[bool, Depends(_may_change)]
DatabaseDep = Annotated[Database, Depends(_database)]
UrlSourceDep = Annotated[UrlSource, Depends(_url_source)]
SettingsDep = Annotated[Settings, _kept("settings")]
StudiesDep = Annotated[Studies, _kept("studies")]
ArtifactsDep = Annotated[ArtifactStore, _kept("artifacts")]
ImportancesDep = Annotated[Importances, _kept("importances")]
UserCodeDep = Annotated[UserCode, _kept("user_code")]
MetricsDep = Annotated[Metrics, _kept("metrics")]
ReadersDep = Annotated[Readers, _kept("readers")]


def _require_room(request: Request) -> None:
    require_room(request.app.state.settings)


NEEDS_ROOM: Final = [Depends(_require_room)]
"""Dependencies of routes that store something large, or accept work: they raise StorageFullError on a full disk."""

MAX_NUMBER: Final = 2**31 - 1
"""Largest integer that a column of the database can hold or be compared with."""

Text = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]*$")]
"""Text that a column of the database can be compared with; PostgreSQL does not accept NUL."""

JobId = Annotated[Text, Path(description="Id of a job.", examples=["job-0123456789abcdef"])]
Number = Annotated[int, Path(ge=0, le=MAX_NUMBER, description="Number of the trial within the job.")]


class StrictQuery(BaseModel):
    """Query parameters. Unknown ones are refused: a misspelt filter would list everything, a misspelt dry run queue."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(StrictQuery):
    """Which page of a list."""

    limit: int = Field(50, ge=1, le=200, description="Most items on the page.")
    cursor: int | None = Field(None, ge=0, le=MAX_NUMBER, description="`next_cursor` of the previous page.")
