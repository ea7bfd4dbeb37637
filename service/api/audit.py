"""The audit log: a layer that writes a line about every change and every refusal, and the route that shows them."""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator, AwareDatetime, BeforeValidator
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.api.deps import DatabaseDep, PageQuery, Text
from service.api.middleware import READS
from service.api.problems import responses
from service.api.views import Page, View
from service.db.session import Database
from service.errors import DatabaseReplacedError
from service.ledger import audit

log = logging.getLogger(__name__)

PATH: Final = "/v1/audit"

REFUSED: Final = (401, 403, 429)

UNAVAILABLE: Final = (503, 507)
"""Answers that changed nothing because the database or a disk would not have it. The log of the process has them."""

REPEAT_S: Final = 60.0
"""A refusal is written down once in this time for each sender, so that nobody can fill the database with them."""

DATE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)")
"""A time as RFC 3339 writes it; the seconds may be left out."""

MAX_SENDERS: Final = 10_000
"""How many senders of refused requests are remembered."""

router = APIRouter(prefix=PATH, tags=["audit"])


class AuditView(View):
    """A line of the audit log."""

    id: int
    at: datetime
    who: str
    project: str
    address: str
    operation: str
    method: str
    target: str
    status: int | None
    request_id: str | None


def _written_out(given: str) -> str:
    """Refuse a number, which pydantic would take for seconds or milliseconds since 1970."""
    if not DATE_TIME.fullmatch(given):
        raise ValueError("must be a date and time with its zone, such as 2026-11-29T17:30:00Z")
    return given


def _in_utc(given: datetime) -> datetime:
    try:
        return given.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be in the years 1 to 9999, also in UTC") from None


Time = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]


class AuditQuery(PageQuery):
    """Which lines to list."""

    who: Text | None = None
    project: Text | None = None
    operation: Text | None = None
    since: Time | None = None
    until: Time | None = None


@router.get("", responses=responses(422))
def list_audit(db: DatabaseDep, wanted: Annotated[AuditQuery, Query()]) -> Page[AuditView]:
    """List who changed what and who was refused, the newest first. It needs the scope admin."""
    equals = {"who": wanted.who, "project": wanted.project, "operation": wanted.operation}
    with db.read() as session:
        rows = audit.page(session, wanted.limit + 1, wanted.cursor, wanted.since, wanted.until, **equals)
    return Page[AuditView].of(rows, wanted.limit, AuditView.model_validate, lambda row: row.id)


class Audited:
    """ASGI middleware that writes the line before the answer is sent, in a transaction of its own.

    So whoever has an answer finds its line. If the line cannot be stored, the change stands, and the log of the process
    has the line as an error. What a request says beside its path is not written down.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._refused: dict[tuple[str, str, int], float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and write down what became of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._record(scope, message["status"], message.get("headers", []))
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        except Exception:
            await self._record(scope, 500, [])
            raise

    async def _record(self, scope: Scope, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        is_change = scope["method"] not in READS and status not in UNAVAILABLE
        if not is_change and status not in REFUSED:
            return
        facts = _facts(scope, status, Headers(raw=headers).get("location"))
        if status in REFUSED and self._is_repeated(facts):
            return
        database: Database = scope["app"].state.database
        try:
            await run_in_threadpool(audit.record, database, **facts)
        except (SQLAlchemyError, DatabaseReplacedError) as error:
            log.error("a line of the audit log was not stored", extra=facts, exc_info=error)

    def _is_repeated(self, facts: dict[str, Any]) -> bool:
        """Tell whether the same sender was refused in the same way a moment ago; remember it if not."""
        sender, now = (facts["address"], facts["who"], facts["status"]), time.monotonic()
        if now - self._refused.get(sender, -REPEAT_S) < REPEAT_S:
            return True
        if len(self._refused) >= MAX_SENDERS:
            self._refused.clear()
        self._refused[sender] = now
        return False


def _facts(scope: Scope, status: int, location: str | None) -> dict[str, Any]:
    access, client = scope.get("state", {}).get("access"), scope.get("client")
    is_known = access is not None and bool(access.project)
    target = location if location and location.startswith("/v1/") else scope["path"]
    return {
        "who": access.key_id or "local" if is_known else "nobody",
        "project": access.project if access else "",
        "address": client[0] if client else "",
        "operation": getattr(scope.get("route"), "name", None) or "",
        "method": scope["method"],
        "target": target,
        "status": status,
        "request_id": logs.request_id(),
    }
