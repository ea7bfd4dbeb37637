"""Gives every request an id, and writes down how it went: a line of the log, and the metrics.

The id is in the answer, in problem documents, in every log line of the request, and with a job that it queues. It is
that of the client, if it has sent one that is well formed.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.api.metrics import Metrics

log = logging.getLogger(__name__)

HEADER: Final = b"x-request-id"

WELL_FORMED: Final = re.compile(rb"[A-Za-z0-9._~-]{1,64}")

QUIET: Final = ("/healthz", "/readyz", "/metrics", "/assets/", "/static")
"""Beginnings of paths that programs and pages ask for all the time; they are logged on the level DEBUG."""

GONE: Final = 499
"""Status in the log of a request whose client went away before it was answered, as nginx has it."""


class Observed:
    """ASGI middleware around all others."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and write down how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), GONE
        request_id = _given_id(scope) or secrets.token_hex(16)
        logs.remember(request_id=request_id)  # for good: the task ends with the request

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                others = [item for item in message.get("headers", ()) if item[0] != HEADER]
                message["headers"] = [*others, (HEADER, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            status = 500
            raise
        finally:
            self._write_down(scope, status, time.perf_counter() - began)

    def _write_down(self, scope: Scope, status: int, seconds: float) -> None:
        self._metrics.count(scope, status, seconds)
        level = logging.DEBUG if scope["path"].startswith(QUIET) else logging.INFO
        if not log.isEnabledFor(level):
            return
        client, access = scope.get("client"), scope.get("state", {}).get("access")
        facts = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds, 1),
            "client": client[0] if client else None,
            "project": access.project if access else None,
            "key": access.key_id if access else None,
        }
        log.log(level, "request", extra={name: value for name, value in facts.items() if value})


def _given_id(scope: Scope) -> str | None:
    """Return the id that the client has sent; None if there is none, or it is not well formed."""
    given = next((value for name, value in scope["headers"] if name == HEADER), b"")
    return given.decode() if WELL_FORMED.fullmatch(given) else None
