# The Optuna dashboard, read-only. It knows no path prefix, so it gets what no route takes, and only its own paths reach
# it; it has no login and could create and delete studies, so only GET and HEAD do.
"""The mount of the Optuna dashboard."""

from __future__ import annotations

from typing import Any, Final

from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from service.api.problems import problem
from service.db.studies import Studies

PATHS: Final = ("/dashboard", "/favicon.ico")
PREFIXES: Final = ("/dashboard/", "/api/", "/static/", "/csv/")
"""Paths of the dashboard; everything else that no route took is a 404."""


class Dashboard:
    """ASGI application that passes reads to the dashboard, which is loaded when it is first asked for.

    Args:
        studies: Optuna's tables.
    """

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a read to the dashboard, refuse anything else."""
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        path: str = scope["path"]
        steps = path.replace("\\", "/").split("/")  # its server of files fails at a path that leads out of its folder
        if ".." in steps or (path not in PATHS and not path.startswith(PREFIXES)):
            answer = problem(404, "not_found", f"nothing is at {path}; see /docs")
        elif scope["method"] not in ("GET", "HEAD"):
            answer = problem(405, "read_only", "the dashboard is read-only here", headers={"Allow": "GET, HEAD"})
        else:
            if self._app is None:
                self._app = await run_in_threadpool(self._load)
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)

    def _load(self) -> ASGIApp:
        import optuna_dashboard  # takes over a second, which the start of the API does not wait for
        from a2wsgi import WSGIMiddleware

        app: Any = WSGIMiddleware(
            optuna_dashboard.wsgi(self._studies.open())
        )  # its types are narrower than starlette's
        return app  # type: ignore[no-any-return]
