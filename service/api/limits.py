# Stops a request body that is too large before it is held in memory, whether or not its length was announced.
"""The limit on request bodies."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem

TOO_LARGE: Final = 413


class BodyLimit:
    """ASGI middleware that answers 413 to a body over ``max_bytes``, but at ``streamed``, which has its own limit."""

    def __init__(self, app: ASGIApp, max_bytes: int, streamed: str = "") -> None:
        self._app, self._max_bytes, self._streamed = app, max_bytes, streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, at most ``max_bytes`` of it, then pass it on."""
        if scope["type"] != "http" or (scope["path"], scope["method"]) == (self._streamed, "POST"):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                detail = f"the body has more than {self._max_bytes} bytes"
                await problem(TOO_LARGE, "body_too_large", detail)(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        whole: Message = {"type": "http.request", "body": bytes(body), "more_body": False}
        pending = [whole]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replay, send)
