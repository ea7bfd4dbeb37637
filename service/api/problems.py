"""Turns every error into an HTTP answer: a problem document (RFC 9457, ``application/problem+json``).

Routes and the ledger raise; only this file decides about statuses. A problem lists the fields that are wrong.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, JsonValue
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from service import logs
from service.api.field_errors import field_errors
from service.db.session import AWAY
from service.disk import is_full
from service.errors import (
    ConflictError,
    DatabaseVersionError,
    FieldError,
    FileTooLargeError,
    ForbiddenError,
    IdempotencyConflictError,
    InvalidFileError,
    InvalidSpecError,
    NotFoundError,
    QueueFullError,
    QuotaExceededError,
    ScopeError,
    ServiceError,
    SlowBodyError,
    StorageFullError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    shortened,
)
from service.spec.job import JobSpec

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

STATUS: Final[Mapping[type[ServiceError], HTTPStatus]] = {
    InvalidSpecError: HTTPStatus.UNPROCESSABLE_ENTITY,
    IdempotencyConflictError: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidFileError: HTTPStatus.UNPROCESSABLE_ENTITY,
    FileTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    ScopeError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    TooManyRequestsError: HTTPStatus.TOO_MANY_REQUESTS,
    QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    DatabaseVersionError: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageFullError: HTTPStatus.INSUFFICIENT_STORAGE,
    QuotaExceededError: HTTPStatus.INSUFFICIENT_STORAGE,
    SlowBodyError: HTTPStatus.REQUEST_TIMEOUT,
}

RETRY_AFTER_S: Final = 5
"""Seconds after which a client may send a request again that could not be answered."""

CHALLENGE: Final = 'Bearer realm="warptune"'

MAX_ERRORS: Final = 20
"""Most fields that one answer names; a body can be wrong in a hundred thousand places."""


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(examples=["budget.steps"])
    value: JsonValue = Field(description="The value that you sent; null if the field is missing.", examples=[0])
    message: str = Field(
        description="What is wrong, as a clause that follows the field's name.",
        examples=["must be greater than or equal to 1"],
    )
    hint: str | None = Field(None, description="What to do about it.")
    code: str = Field("invalid", description="The kind of mistake. It is stable, so programs may switch on it.")


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="The kind of problem. It is stable, so programs may switch on it.")
    errors: list[FieldProblem] = Field(default=[], description="The fields that are wrong.")
    request_id: str | None = Field(None, description="Id of the request, which the log lines about it have.")


class ProblemResponse(JSONResponse):
    """A problem document that can repeat any text. A lone surrogate, which UTF-8 cannot hold, becomes ``?``."""

    media_type = MEDIA_TYPE

    def render(self, content: object) -> bytes:
        """Return the document's bytes."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entry for the problems that a route may answer with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def problem(
    status: int,
    code: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a problem document as a response."""
    document = {  # a dict, because the model Problem refuses text that is not Unicode
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": [_field_problem(error) for error in errors],
        "request_id": logs.request_id(),
    }
    return ProblemResponse(document, status, headers=headers)


def _field_problem(error: FieldError) -> dict[str, object]:
    return {  # not asdict(), which would copy the value, however deeply it is nested
        "field": shortened(error.field),
        "value": _short(error.value),
        "message": error.message,
        "hint": error.hint,
        "code": error.code,
    }


def install(app: FastAPI) -> None:
    """Register the error handlers, and the schema that :func:`responses` refers to."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        _, found = models_json_schema([(Problem, "validation")], ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= found["$defs"]
        about = "Made with `warptune keys create`. A service without keys needs none."
        document["components"]["securitySchemes"] = {
            "ApiKey": {"type": "http", "scheme": "bearer", "description": about}
        }
        document["security"] = [{"ApiKey": []}, {}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, _on_bug)


async def _on_service_error(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, ServiceError)
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    errors = error.errors if isinstance(error, InvalidSpecError) else ()
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, UnavailableError) else None
    if isinstance(error, TooManyRequestsError):
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    elif isinstance(error, UnauthorizedError):
        headers = {"WWW-Authenticate": CHALLENGE}
    elif isinstance(error, ScopeError):
        headers = {"WWW-Authenticate": f'{CHALLENGE}, error="{error.code}", scope="{error.needed}"'}
    return problem(status, error.code, str(error), errors, headers)


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = "_".join(status.phrase.lower().split())
    if status == HTTPStatus.BAD_REQUEST and error.__cause__ is not None:
        wrong = FieldError("body", None, f"must be readable JSON: {error.__cause__}", code="invalid_json")
        return problem(status, code, str(wrong), [wrong])
    detail = str(error.detail)
    if status == HTTPStatus.NOT_FOUND and detail == status.phrase:
        detail = f"there is nothing at {request.url.path}; see /docs"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.url.path} does not support {request.method}; see /docs"
        methods = ", ".join(_methods(request))
        return problem(status, code, detail, headers={"Allow": methods} if methods else error.headers)
    return problem(status, code, detail, headers=error.headers)


def _methods(request: Request) -> list[str]:
    """Return the methods of all routes at the path of a request; the router names those of the first route only."""
    paths = request.app.openapi()["paths"]
    return sorted(map(str.upper, paths.get(getattr(request.scope.get("route"), "path", ""), {})))


async def _on_database_error(request: Request, error: Exception) -> JSONResponse:
    if is_full(error):
        return await _on_full_disk(request, error)
    log.error("the database cannot be used", extra={"path": request.url.path}, exc_info=error)
    return problem(503, "database_unavailable", "the database does not answer; the log of the service has details")


async def _on_full_disk(request: Request, error: Exception) -> JSONResponse:
    if not is_full(error):
        return await _on_bug(request, error)
    log.error("a disk is full", extra={"path": request.url.path}, exc_info=error)
    detail = "a disk of the service is full; the log of the service names it. Send the request again when it has room"
    return problem(507, StorageFullError.code, detail)


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("unhandled error", extra={"path": request.url.path}, exc_info=error)
    headers = {"X-Request-ID": logs.request_id() or ""}  # this answer passes through no layer that adds it
    return problem(500, "internal_error", "this is a bug of the service; its log has details", headers=headers)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    items = error.errors()
    body_field = request.scope["route"].body_field
    top = body_field.field_info.annotation if body_field else JobSpec
    errors = field_errors(items[:MAX_ERRORS], error.body, _query_parameters(request), top)
    more = f"; and {len(items) - MAX_ERRORS} more" if len(items) > MAX_ERRORS else ""
    return problem(422, InvalidSpecError.code, "; ".join(map(str, errors)) + more, errors)


HANDLERS: Final[dict[Any, Any]] = {
    ServiceError: _on_service_error,
    RequestValidationError: _on_validation_error,
    HTTPException: _on_http_error,
    **dict.fromkeys(AWAY, _on_database_error),
    OSError: _on_full_disk,
}
"""What makes an answer of an error, by its kind. Any other error is a bug."""


def _query_parameters(request: Request) -> list[str]:
    operation = request.app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    return [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"]


def _short(value: object) -> object:
    """Return a JSON value that is short enough to send back; values that JSON does not have become text."""
    try:
        text = json.dumps(value, default=repr)
    except RecursionError:
        return "a value that is nested too deeply"
    short = shortened(text)
    return json.loads(text, parse_constant=str) if short == text else short  # NaN and Infinity become text
