"""The Optuna dashboard, read-only.

It cannot be mounted below a prefix, so it gets the requests that match no route, and only those for its own paths. It
could create and delete studies, so only GET and HEAD reach it. It shows all studies and cannot be told to show those
of one project, so it is for admins.
"""

from __future__ import annotations

from typing import Final, cast

from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from service.api.problems import problem
from service.db.studies import Studies

PATH: Final = "/dashboard"
PREFIXES: Final = (PATH, "/api/", "/static/", "/csv/")
"""Beginnings of the paths of the dashboard. Every other path that matches no route is a 404."""


class Dashboard:
    """ASGI application that passes reads to the dashboard. The first one imports it."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a read to the dashboard; refuse everything else."""
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        path: str = scope["path"]
        steps = path.replace("\\", "/").split("/")  # its file server fails for a path that leads out of its folder
        if ".." in steps or (path != PATH and not path.startswith((f"{PATH}/", *PREFIXES[1:]))):
            answer = problem(404, "not_found", f"there is nothing at {path}; see /docs")
        elif scope["method"] not in ("GET", "HEAD"):
            answer = problem(405, "read_only", "the dashboard is read-only", headers={"Allow": "GET, HEAD"})
        else:
            if self._app is None:
                self._app = await run_in_threadpool(self._load)
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)

    def _load(self) -> ASGIApp:
        """Import the dashboard, which takes more than a second. Runs in a thread of the pool."""
        import optuna_dashboard
        from a2wsgi import WSGIMiddleware

        return cast("ASGIApp", WSGIMiddleware(optuna_dashboard.wsgi(self._studies.open())))
