"""Refuses request bodies that are too large before they fill the memory, whether or not their length is announced."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem

TOO_LARGE: Final = 413


class BodyLimit:
    """ASGI middleware that answers 413 to a body of more than ``max_bytes``.

    A POST to the path ``streamed`` passes: its route has its own limit.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, streamed: str = "") -> None:
        self._app, self._max_bytes, self._streamed = app, max_bytes, streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, at most ``max_bytes`` of it, and pass the request on."""
        if scope["type"] != "http" or (scope["path"], scope["method"]) == (self._streamed, "POST"):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has disconnected
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                detail = f"the body has more than {self._max_bytes} bytes, the limit of WARPTUNE_MAX_BODY_BYTES"
                await problem(TOO_LARGE, "body_too_large", detail)(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        whole: Message = {"type": "http.request", "body": bytes(body), "more_body": False}
        pending = [whole]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replay, send)
