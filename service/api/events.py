"""The route of a job's events: a list, or a stream of server-sent events.

A stream looks for new events in the database, so it does not matter which process wrote them. Whoever writes an event
holds the lock of the job's row, so the ids of a job's events grow in the order in which they can be seen: a reader that
goes on after the last id misses none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from service.api.deps import MAX_NUMBER, DatabaseDep, JobId, PageQuery
from service.api.problems import responses
from service.api.views import EventView, Page
from service.db.session import Database
from service.errors import DatabaseReplacedError
from service.ledger import queries
from service.ledger.jobs import find_job, require_job
from service.states import ENDED_JOB

log = logging.getLogger(__name__)

STREAM: Final = "text/event-stream"
"""Media type of server-sent events."""

LOOK_EVERY_S: Final = 0.5
"""Seconds between two looks for new events."""

KEEPALIVE_S: Final = 15.0
"""After so many seconds without an event a comment is sent, so that proxies keep the connection."""

LONGEST_S: Final = 300.0
"""Seconds after which a stream ends, and the client connects again: its API key may have been revoked."""

AT_ONCE: Final = 200
"""Most events that are read at once."""

HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


router = APIRouter(tags=["jobs"])


@router.get(
    "/v1/jobs/{job_id}/events",
    response_model=Page[EventView],
    responses={
        200: {"content": {STREAM: {"schema": {"type": "string"}}}},
        204: {"description": "A stream has nothing more: the job has ended, and its last event was seen."},
        **responses(404, 422),
    },
)
def list_events(
    job_id: JobId,
    request: Request,
    db: DatabaseDep,
    wanted: Annotated[PageQuery, Query()],
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[
        int | None, Header(ge=0, le=MAX_NUMBER, description="Go on after this event, in a stream.")
    ] = None,
) -> Page[EventView] | Response:
    """List what happened to a job, the oldest first; or follow it until it ends.

    With `Accept: text/event-stream`, the answer is a stream of server-sent events, each an event of the list with its
    id. A client that was cut off sends the last id that it saw as `Last-Event-ID`, as browsers do by themselves.
    """
    if STREAM in accept:
        after = wanted.cursor if last_event_id is None else last_event_id
        return _follow(db, job_id, after, request.app.state.is_stopping)
    with db.read() as session:
        require_job(session, job_id)
        rows = queries.events_page(session, job_id, wanted.limit + 1, wanted.cursor)
    return Page[EventView].of(rows, wanted.limit, EventView.model_validate, lambda row: row.id)


def _follow(db: Database, job_id: str, after: int | None, is_stopping: Callable[[], bool]) -> Response:
    """Answer with the events of a job after an id, until the job has ended. 204 if it has ended and there are none.

    Args:
        db: The ledger's database.
        job_id: The job.
        after: Id of the last event that the client has seen; None for all events.
        is_stopping: Tells whether the server wants to stop, which then waits for no stream.

    Raises:
        NotFoundError: There is no such job.
    """
    with db.read() as session:
        has_ended = require_job(session, job_id).state in ENDED_JOB
        if has_ended and not queries.events_page(session, job_id, 1, after):
            return Response(status_code=204)  # browsers do not connect again after that
    return StreamingResponse(_events(db, job_id, after, is_stopping), media_type=STREAM, headers=HEADERS)


async def _events(
    db: Database, job_id: str, after: int | None, is_stopping: Callable[[], bool]
) -> AsyncIterator[bytes]:
    began = sent = time.monotonic()
    while not is_stopping() and time.monotonic() - began < LONGEST_S:
        try:
            events, has_ended = await run_in_threadpool(_look, db, job_id, after)
        except (SQLAlchemyError, DatabaseReplacedError) as error:
            log.warning("a stream of events ends: the database does not answer", exc_info=error)
            return  # the client connects again
        if events:  # in one piece, so that a client that asks for the job after each piece asks once
            yield b"".join(format_sse_event(data_str=event.model_dump_json(), id=str(event.id)) for event in events)
            after, sent = events[-1].id, time.monotonic()
        elif has_ended:
            return
        if len(events) < AT_ONCE and not has_ended:
            await asyncio.sleep(LOOK_EVERY_S)
        if time.monotonic() - sent > KEEPALIVE_S:
            yield KEEPALIVE_COMMENT
            sent = time.monotonic()


def _look(db: Database, job_id: str, after: int | None) -> tuple[Sequence[EventView], bool]:
    """Return new events, and whether the job had ended before they were read. A job that was deleted has ended."""
    with db.read() as session:
        job = find_job(session, job_id)
        has_ended = job is None or job.state in ENDED_JOB
        return [
            EventView.model_validate(row) for row in queries.events_page(session, job_id, AT_ONCE, after)
        ], has_ended
