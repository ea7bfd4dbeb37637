"""Refuses requests before they reach a route: from foreign hosts and sites, and with bodies too large or too slow.

A page of another site must not use the API through the browser of somebody who may: on this machine, or signed in. It
could point a host name of its own at this machine (DNS rebinding), or send a form or a fetch without reading the
answer. :class:`SafeHeaders` tells browsers what a page of ours may do.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from ipaddress import ip_address
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem
from service.errors import SlowBodyError, shortened
from service.settings import is_listed, is_loopback

LOCAL: Final = ("localhost", "*.localhost")
"""Names that always mean this machine."""

STRICT_POLICY: Final = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
LOOSE_POLICY: Final = (
    f"{STRICT_POLICY}; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; font-src 'self' data:"
)
SAFE_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
STRICT_HEADERS: Final = (*SAFE_HEADERS, (b"content-security-policy", STRICT_POLICY.encode()))
LOOSE_HEADERS: Final = (*SAFE_HEADERS, (b"content-security-policy", LOOSE_POLICY.encode()))
NO_STORE: Final = (b"cache-control", b"no-store")
ASK_AGAIN: Final = (b"cache-control", b"no-cache")
"""A browser keeps the answer and asks each time whether it is still the newest."""

READS: Final = ("GET", "HEAD", "OPTIONS")

USUAL_PORTS: Final = {"http": 80, "https": 443}

GRACE_S: Final = 60.0
SLOWEST_BYTES_PER_S: Final = 1000.0
"""A body has the first in seconds, and more as long as it comes at this rate."""

SETTING: Final = "the operator lists allowed names in the setting WARPTUNE_ALLOWED_HOSTS"


class HostCheck:
    """ASGI middleware that answers 403 to an unknown ``Host``, and to a change that a page of another site asks for.

    Args:
        host: Address that the API listens on.
        allowed: Names that it answers to, separated by commas, in addition to localhost and IP addresses. Default: on
            a loopback address no further names, on other addresses any name.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: str | None) -> None:
        self._app = app
        self._listed = [name.lower() for name in allowed.split(",")] if allowed else []
        self._any_host = "*" in self._listed or (allowed is None and not is_loopback(host))
        self._is_known = lru_cache(1000)(self._is_ours)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problem(403, "forbidden", refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        given, origin = headers.get("host"), headers.get("origin")
        if given is not None and not self._any_host and not self._is_known(given):
            return f"this service does not answer to the Host {shortened(given)!r}; {SETTING}"
        if origin is None or scope["method"] in READS:
            return None
        site = _site(origin)
        if site is not None and (site == _site(f"{scope['scheme']}://{given}") or self._is_listed_site(site)):
            return None
        return f"a page of {shortened(origin)!r} must not change anything here; {SETTING}"

    def _is_ours(self, given: str) -> bool:
        """Return whether a Host is an address, or one of the names that this service answers to."""
        name = _name(f"//{given}")
        return name is not None and (_is_address(name) or self._lists(name, LOCAL))

    def _is_listed_site(self, site: tuple[str, str, int]) -> bool:
        """Return whether a site has a listed name, as a proxy has that passes on another Host, and its usual port."""
        scheme, name, port = site
        return port == USUAL_PORTS[scheme] and self._lists(name)

    def _lists(self, name: str, more: tuple[str, ...] = ()) -> bool:
        return is_listed(name, [*self._listed, *more])


def _name(url: str) -> str | None:
    """Return the host name or address in a URL; None if it has none."""
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return None
    return name.removesuffix(".") if name else None


def _site(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host name and port of a URL, which together are a site to a browser; None if it has none."""
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme.lower(), parts.port
    except ValueError:
        return None
    name = _name(url)
    if name is None or scheme not in USUAL_PORTS:
        return None
    return scheme, name, USUAL_PORTS[scheme] if port is None else port


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class SafeHeaders:
    """ASGI middleware that adds headers for browsers to every answer that does not have them. Only assets are kept.

    A page may load only what this service has, runs no script that is written into it, and is not shown in a frame of
    another page. ``loose`` are the beginnings of paths whose pages, not made by us, have scripts and styles in them.
    """

    def __init__(self, app: ASGIApp, loose: tuple[str, ...]) -> None:
        self._app, self._loose = app, loose

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to the answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = LOOSE_HEADERS if scope["path"].startswith(self._loose) else STRICT_HEADERS
                is_asset = scope["path"].startswith(("/assets/", "/static"))
                added = (*added, ASK_AGAIN if is_asset else NO_STORE)
                headers = list(message.get("headers", ()))
                names = {name.lower() for name, _ in headers}
                message["headers"] = headers + [header for header in added if header[0] not in names]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class BodyLimit:
    """ASGI middleware that answers 413 to a body of more than ``max_bytes``, before it fills the memory.

    The length of the body may be announced or not. A POST to the path ``streamed`` passes: its route has its own limit.
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
                await problem(413, "body_too_large", detail)(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        whole: Message = {"type": "http.request", "body": bytes(body), "more_body": False}
        pending = [whole]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replay, send)


class BodyDeadline:
    """ASGI middleware that answers 408 to a body that stalls or comes too slowly, so that nobody can hold connections.

    A body has a minute, and a second more for each kilobyte that has come. A route that finds its client gone may raise
    ``ClientDisconnect``: nobody is left to answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with a limit on the time that its body may take."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, received, is_whole = monotonic(), 0, False

        async def receive_in_time() -> Message:
            nonlocal received, is_whole
            if is_whole:
                return await receive()  # it waits for the client to disconnect
            left_s = GRACE_S + received / SLOWEST_BYTES_PER_S - (monotonic() - began)
            try:
                message = await asyncio.wait_for(receive(), max(left_s, 0.0))
            except TimeoutError:
                detail = f"the body did not come in time: {received} bytes in {monotonic() - began:.0f} seconds"
                raise SlowBodyError(f"{detail}; send it again over a faster connection") from None
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            return message

        try:
            await self._app(scope, receive_in_time, send)
        except ClientDisconnect:
            return
        except SlowBodyError as error:  # not from a route, whose errors are answered already
            await problem(408, error.code, str(error))(scope, receive, send)
