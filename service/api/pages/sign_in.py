"""The page where a browser signs in with an API key, and out again."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse

from service.api.access import SIGN_IN, cookie_name, find_access
from service.api.deps import StrictQuery
from service.api.pages.render import PageRoute, page_of
from service.db.session import Database
from service.errors import UnauthorizedError
from service.ledger import keys

OWN_PATH: Final = re.compile(r"/(?![/\\])[^\\\s]*")
"""A path of this service. A browser would take ``//name`` and ``/\\name`` for another one."""

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)


class SignInQuery(StrictQuery):
    """Where to go after the sign-in."""

    next: str = "/"


@router.get(SIGN_IN)
def sign_in_page(request: Request, wanted: Annotated[SignInQuery, Query()]) -> HTMLResponse:
    """Show who is signed in, or where to enter a key. A key in the header is not tried: nothing counts wrong ones."""
    try:
        access = None if "authorization" in request.headers else find_access(request)
    except UnauthorizedError:
        access = None
    return page_of("sign_in", access=access, next=wanted.next, wrong=None)


@router.post(SIGN_IN)
async def sign_in(request: Request) -> Response:
    """Take a key from the form of the page, and give the browser a cookie."""
    form = parse_qs((await request.body()).decode("ascii", "replace"))
    key, following = (form.get(name, [""])[0].strip() for name in ("key", "next"))
    db = request.app.state.database
    try:
        request.state.access, token = await run_in_threadpool(keys.sign_in, db, key)  # the audit log says who it was
    except UnauthorizedError as error:
        return page_of("sign_in", status=401, access=None, next=following, wrong=str(error))
    name = await run_in_threadpool(cookie_name, db)
    await run_in_threadpool(keys.sign_out, db, request.cookies.get(name, ""))
    answer = RedirectResponse(following if OWN_PATH.fullmatch(following) else "/", 303)
    answer.set_cookie(
        name,
        token,
        max_age=int(keys.SESSION.total_seconds()),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return answer


@router.post("/sign-out")
def sign_out(request: Request) -> Response:
    """Forget the cookie, here and in the browser."""
    db: Database = request.app.state.database
    name = cookie_name(db)
    token = request.cookies.get(name, "")
    with suppress(UnauthorizedError):
        request.state.access = keys.signed_in(db, token)  # the audit log says who it was
    keys.sign_out(db, token)
    answer = RedirectResponse(SIGN_IN, 303)
    answer.delete_cookie(name, secure=request.url.scheme == "https", httponly=True, samesite="lax")
    return answer
