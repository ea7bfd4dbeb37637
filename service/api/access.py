"""Decides who may send a request, before anything of it is read. Whatever is not listed as open needs an API key.

A key comes in the header ``Authorization: Bearer``, or from a browser that signed in with one, in a cookie. Without any
key in its database, a service that listens on loopback only is open to its own machine.
"""

from __future__ import annotations

import hmac
import logging
from functools import partial
from typing import Final
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.cache import CommitCache
from service.api.middleware import READS
from service.api.pages.render import page_of
from service.api.rate_limits import RateLimits
from service.db.commits import Mark
from service.db.session import Database
from service.errors import ScopeError, UnauthorizedError
from service.ledger import keys
from service.settings import Settings, is_loopback

log = logging.getLogger(__name__)

SIGN_IN: Final = "/sign-in"

OPEN: Final = (
    *("/healthz", "/readyz", "/favicon.ico", SIGN_IN, "/sign-out"),
    *("/docs", "/redoc", "/docs/oauth2-redirect", "/openapi.json"),  # the same for every installation
)
OPEN_BELOW: Final = ("/assets/", "/static-offline-docs/")
"""What needs no key: it shows nothing that belongs to a project."""

NOBODY: Final = keys.Access("", keys.Scope.READ)
"""Whoever asks for something open. No job belongs to this project."""


MAX_KNOWN: Final = 1_000
"""How many keys and cookies are remembered while nothing is committed."""


def cookie_name(db: Database) -> str:
    """Return the name of the cookie of a browser that signed in.

    It has part of the database's id, because browsers send the cookies of a host to every port of it: services with
    databases of their own do not take each other's, and those that share a database share it.
    """
    return f"warptune_session_{db.identity()[:8]}"


class AccessCheck:
    """ASGI middleware that answers 401 without a valid key, and 403 if the scope of the key is too small.

    Reading needs the scope ``read``, everything else ``submit``. A browser is led to the page to sign in. Requests that
    come too fast are answered with 429.

    Args:
        for_admins: Beginnings of paths that need the scope ``admin``.
    """

    def __init__(self, app: ASGIApp, for_admins: tuple[str, ...]) -> None:
        self._app, self._for_admins = app, for_admins
        self._known: CommitCache[keys.Access] = CommitCache(MAX_KNOWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its access as ``request.state.access``, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, state, app_state = Request(scope), scope["state"], scope["app"].state
        access = state["access"] = NOBODY
        rates: RateLimits = app_state.rate_limits
        if not is_open(scope["path"]):
            mark = state["mark"] = await app_state.last_commit.mark()
            try:
                access = state["access"] = await self._access(request, mark)
                access.require(self._needed(scope["method"], scope["path"]))
            except (UnauthorizedError, ScopeError) as error:
                sender = request.client.host if request.client else None
                log.info("refused", extra={"path": scope["path"], "client": sender, "why": str(error)})
                if isinstance(error, UnauthorizedError):
                    rates.count_refused(request)
                if scope["method"] != "GET" or "text/html" not in request.headers.get("accept", ""):
                    raise
                await _page(request, error)(scope, receive, send)
                return
        signs_in = (scope["method"], scope["path"]) == ("POST", SIGN_IN)
        rates.count(request, access, signs_in=signs_in)
        await self._app(scope, receive, send)

    async def _access(self, request: Request, mark: Mark | None) -> keys.Access:
        """Return who sends a request."""
        cookies = tuple(request.headers.getlist("cookie"))  # a proxy may pass them on as several headers
        shown = (request.headers.get("authorization"), cookies, _is_here(request))
        access = await self._known.get(shown, mark, partial(run_in_threadpool, find_access, request))
        assert access is not None  # find_access raises an error instead
        return access

    def _needed(self, method: str, path: str) -> keys.Scope:
        if path.startswith(self._for_admins):
            return keys.Scope.ADMIN
        return keys.Scope.READ if method in READS else keys.Scope.SUBMIT


def is_open(path: str) -> bool:
    """Return whether a path needs no key."""
    return path in OPEN or path.startswith(OPEN_BELOW)


def find_access(request: Request) -> keys.Access:
    """Return who sends a request.

    Raises:
        UnauthorizedError: It has no valid key, and the service is not open.
    """
    settings: Settings = request.app.state.settings
    db: Database = request.app.state.database
    try:
        return _holder(request, db)
    except UnauthorizedError:
        if settings.is_private and _is_here(request) and not keys.exist(db):
            return keys.EVERYBODY
        raise


def _holder(request: Request, db: Database) -> keys.Access:
    """Return who has the key or cookie of a request."""
    private_key: bytes | None = request.app.state.private_key
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        if private_key and hmac.compare_digest(key.encode(), private_key):
            return keys.EVERYBODY
        return keys.authenticate(db, key.strip())
    if token := request.cookies.get(cookie_name(db)):
        return keys.signed_in(db, token)
    advice = "set WARPTUNE_API_KEY, or send `Authorization: Bearer KEY`; the operator makes one: warptune keys create"
    raise UnauthorizedError(f"this service needs an API key: {advice}")


def _is_here(request: Request) -> bool:
    """Return whether a request comes from this machine, and was not passed on for another one.

    uvicorn believes only the proxies that are trusted. This believes every header that says where a request is from.
    """
    headers = request.headers
    passed_on_for = ",".join([*headers.getlist("x-forwarded-for"), *headers.getlist("x-real-ip")]).split(",")
    senders = [address.strip() for address in passed_on_for if address.strip()]
    is_here = request.client is not None and is_loopback(request.client.host)
    return is_here and "forwarded" not in headers and all(map(is_loopback, senders))


def _page(request: Request, error: UnauthorizedError | ScopeError) -> Response:
    if isinstance(error, UnauthorizedError):
        where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{SIGN_IN}?next={quote(where, safe='')}", 303)
    return page_of("error", status=403, title="Your API key does not allow this", details=[str(error)])
