"""The Optuna dashboard, read-only.

It cannot be mounted below a prefix, so it gets the requests that match no route, and only those for its own paths. It
could create and delete studies, so only GET and HEAD reach it. A style sheet of ours hides the buttons that would
change something. It shows all studies and cannot be told to show those of one project, so it is for admins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from service.api.deps import MAX_NUMBER
from service.api.pages.render import page_of
from service.api.problems import problem
from service.db.studies import Studies
from service.errors import FieldError, InvalidSpecError

if TYPE_CHECKING:
    import optuna
    from optuna.study._frozen import FrozenStudy

PATH: Final = "/dashboard"
PREFIXES: Final = (PATH, "/api/", "/static/", "/csv/")
"""Beginnings of the paths of the dashboard. Every other path that matches no route is a 404."""

HEAD_END: Final = b"</head>"
STYLE: Final = b'<link rel="icon" href="/assets/icon.svg"><link rel="stylesheet" href="/assets/dashboard.css">'
"""What its page gets at the end of its head."""


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
        after = QueryParams(scope["query_string"]).get("after", "0")
        if (
            ".." in steps
            or any(map(_is_too_large, steps))
            or (path != PATH and not path.startswith((f"{PATH}/", *PREFIXES[1:])))
        ):
            if "text/html" in Headers(scope=scope).get("accept", ""):
                answer: Response = page_of(
                    "error", status=404, title="There is nothing at this address", details=[path]
                )
            else:
                answer = problem(404, "not_found", f"there is nothing at {path}; see /docs")
        elif scope["method"] not in ("GET", "HEAD"):
            detail = "the dashboard is read-only: use the pages, or warptune, to start, cancel or delete a job"
            answer = problem(405, "read_only", detail, headers={"Allow": "GET, HEAD"})
        elif not after.isdecimal() or _is_too_large(after):
            wrong = FieldError("after", after, f"must be a whole number from 0 to {MAX_NUMBER}")
            answer = problem(422, InvalidSpecError.code, str(wrong), [wrong])
        else:
            if self._app is None:
                self._app = await run_in_threadpool(self._load)
            if "accept-encoding" not in Headers(scope=scope):  # without it, its file server fails
                scope = {**scope, "headers": [*scope["headers"], (b"accept-encoding", b"identity")]}
            await self._app(scope, receive, _styled(send) if path.startswith(PATH) else send)
            return
        await answer(scope, receive, send)

    def _load(self) -> ASGIApp:
        """Import the dashboard, which takes more than a second. Runs in a thread of the pool."""
        import optuna
        import optuna_dashboard
        from a2wsgi import WSGIMiddleware

        optuna.storages.BaseStorage.register(_NamedStudies)
        storage = cast("optuna.storages.BaseStorage", _NamedStudies(self._studies.open()))
        return cast("ASGIApp", WSGIMiddleware(optuna_dashboard.wsgi(storage)))


class _NamedStudies:
    """A storage whose list of studies begins each name with the name of its job. An unknown study is a 404."""

    def __init__(self, storage: optuna.storages.RDBStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_study_name_from_id(self, study_id: int) -> str:
        from bottle import HTTPError

        try:
            return self._storage.get_study_name_from_id(study_id)
        except KeyError:
            raise HTTPError(404, f"there is no study {study_id}") from None

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = sorted(self._storage.get_all_studies(), key=lambda study: study._study_id)
        for study in studies:
            if "job" in study.user_attrs:
                study.study_name = f"{study.user_attrs['job']}: {study.study_name}"
        return studies


def _is_too_large(step: str) -> bool:
    """Return whether part of a path is a number that no study can have. The databases refuse it with an error."""
    digits = step.removeprefix("-")
    return digits.isdecimal() and (len(digits) > len(str(MAX_NUMBER)) or int(digits) > MAX_NUMBER)


def _styled(send: Send) -> Send:
    """Return a ``send`` that adds ``STYLE`` to a page."""

    async def send_styled(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if "content-length" in headers:
                headers["content-length"] = str(int(headers["content-length"]) + len(STYLE))
        elif HEAD_END in message.get("body", b""):
            message = {**message, "body": message["body"].replace(HEAD_END, STYLE + HEAD_END)}
        await send(message)

    return send_styled
