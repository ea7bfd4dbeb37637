"""Keeps what was made of the database, and uses it again while nothing is committed.

Every request first asks the database for the mark of its last commit. So a client that writes, here or through another
process, and then reads never gets an older answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, final
from weakref import WeakValueDictionary

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.db.commits import Mark

Value = TypeVar("Value")

PATH: Final = re.compile(r"/v1/jobs(/[^/]+(/trials(/[^/]+)?)?)?")
"""Which answers are kept: those about jobs and trials, which are made of the database alone."""

MAX_AGE_S: Final = 1.0
"""Nothing is kept longer, even if nothing is committed: keys expire by the clock."""

MAX_BYTES: Final = 16_000_000
"""Bytes of the answers that one process keeps."""


@final
class CommitCache(Generic[Value]):
    """Values by what they depend on besides the database.

    A value is computed once for each commit; whoever needs it meanwhile waits. What was not used for longest is dropped
    when it is too old, or when the cache is full.

    Args:
        max_size: The most that is kept.
        size_of: Returns the size of a value.
    """

    def __init__(self, max_size: int, size_of: Callable[[Value], int] = lambda _: 1) -> None:
        self._max_size, self._size_of, self._size = max_size, size_of, 0
        self._kept: OrderedDict[Hashable, tuple[Mark, float, Value]] = OrderedDict()
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    async def get(
        self, key: Hashable, mark: Mark | None, compute: Callable[[], Awaitable[Value | None]]
    ) -> Value | None:
        """Return the value as it is at a mark, or compute it.

        Args:
            key: What it depends on.
            mark: The last commit; None if it is not known, and nothing can be kept.
            compute: Returns the value; None if it must not be kept. What it raises is raised here.
        """
        if mark is None:
            return await compute()
        if (known := self._find(key, mark)) is not None:
            return known
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if (known := self._find(key, mark)) is not None:
                return known
            if (value := await compute()) is not None:
                self._keep(key, mark, value)
            return value

    def _find(self, key: Hashable, mark: Mark) -> Value | None:
        known = self._kept.get(key)
        if known is None or known[0] != mark or self._is_old(key):
            return None
        self._kept.move_to_end(key)
        return known[2]

    def _keep(self, key: Hashable, mark: Mark, value: Value) -> None:
        self._drop(key)
        if self._size_of(value) > self._max_size:
            return
        self._kept[key] = mark, time.monotonic() + MAX_AGE_S, value
        self._size += self._size_of(value)
        while self._kept and (self._size > self._max_size or self._is_old(next(iter(self._kept)))):
            self._drop(next(iter(self._kept)))

    def _is_old(self, key: Hashable) -> bool:
        return time.monotonic() > self._kept[key][1]

    def _drop(self, key: Hashable) -> None:
        if (known := self._kept.pop(key, None)) is not None:
            self._size -= self._size_of(known[2])


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer with the status 200.

    Attributes:
        start: The message with its headers.
        body: Its body.
        etag: Identifies the body.
        route: The route that made it, for the metrics.
    """

    start: Message
    body: bytes
    etag: str
    route: Any


@final
class CachedAnswers:
    """ASGI middleware that answers from the cache. It comes after the check of access, which notes the last commit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._cache: CommitCache[Answer] = CommitCache(MAX_BYTES, lambda answer: len(answer.body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from the cache, or pass the request on and keep its answer.

        Nobody waits for an answer to a request with a body: that may be long in coming.
        """
        if scope["type"] != "http" or scope["method"] != "GET" or not PATH.fullmatch(scope["path"]) or _has_body(scope):
            await self._app(scope, receive, send)
            return

        async def compute() -> Answer | None:
            return await self._compute(scope, receive, send)

        access = scope["state"]["access"]
        key = (access.project, access.sees_all, scope["path"], scope["query_string"])
        answer = await self._cache.get(key, scope["state"]["mark"], compute)
        if answer is not None:
            scope["route"] = answer.route
            await _send(answer, scope, send)

    async def _compute(self, scope: Scope, receive: Receive, send: Send) -> Answer | None:
        """Return the answer. If its status is not 200, send it at once and return None."""
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            if start["status"] != 200:
                await send(message)
            else:
                body.extend(message.get("body", b""))

        await self._app(scope, receive, collect)
        if start.get("status") != 200:
            return None
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["ETag"] = etag
        return Answer({**start, "headers": headers.raw}, bytes(body), etag, scope.get("route"))


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def _send(answer: Answer, scope: Scope, send: Send) -> None:
    """Send an answer, or 304 if the client has it already."""
    known = Headers(scope=scope).get("if-none-match", "")
    tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
    start, body = answer.start, answer.body
    if answer.etag in tags or tags == ["*"]:
        headers = [item for item in start["headers"] if item[0] not in (b"content-length", b"content-type")]
        start, body = {**start, "status": 304, "headers": headers}, b""
    await send({**start, "headers": list(start["headers"])})
    await send({"type": "http.response.body", "body": body})
