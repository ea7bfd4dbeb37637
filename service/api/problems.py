# The one place where errors become HTTP: RFC 9457 problem documents that name the field, the value that was given and
# what would be right. Routes and ledger raise; nobody else builds an error answer.
"""Errors as application/problem+json."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from service.errors import (
    ConflictError,
    FieldError,
    IdempotencyConflictError,
    InvalidSpecError,
    NotFoundError,
    ServiceError,
)
from service.schemas import JobSpec

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

STATUS: Final[Mapping[type[ServiceError], HTTPStatus]] = {
    InvalidSpecError: HTTPStatus.UNPROCESSABLE_ENTITY,
    IdempotencyConflictError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
}

MAX_VALUE_LENGTH: Final = 200
"""Characters of a bad value that are sent back; longer ones are cut."""


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(examples=["budget.steps"])
    value: Any = Field(examples=[0])
    expected: str = Field(examples=["greater than or equal to 1"])


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; fit to switch on.")
    errors: list[FieldProblem] = Field(default=[], description="The fields that are wrong.")


def responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entry of the problems that a route may answer."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        int(status): {"description": status.phrase, "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }


def problem(
    status: int,
    code: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a problem document as a response."""
    document = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        errors=[FieldProblem(field=e.field, value=_short(e.value), expected=e.expected) for e in errors],
    )
    return JSONResponse(document.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)


async def _on_service_error(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, ServiceError)
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    errors = error.errors if isinstance(error, InvalidSpecError) else ()
    return problem(status, error.code, str(error), errors)


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = "_".join(status.phrase.lower().split())
    detail = str(error.detail)
    if status == HTTPStatus.NOT_FOUND and detail == status.phrase:
        detail = f"nothing is at {request.url.path}; see /docs"
    return problem(status, code, detail, headers=error.headers)


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("unhandled error", extra={"path": request.url.path}, exc_info=error)
    return problem(500, "internal_error", "this is a bug of the service; its log has the details")


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, RequestValidationError)
    errors = [_field_error(item, error.body) for item in error.errors()]
    return problem(422, InvalidSpecError.code, "; ".join(map(str, errors)), errors)


def _field_error(item: Mapping[str, Any], body: object) -> FieldError:
    """Turn one pydantic error into the field, the value and what would be right."""
    place, *path = item["loc"]
    kind, value = item["type"], item["input"]
    if kind == "json_invalid":
        return FieldError("body", item.get("ctx", {}).get("error"), f"valid JSON (error at character {path[0]})")
    field = _field_name(path, body, kind) if place == "body" else ".".join(map(str, path))
    if kind == "missing":
        return FieldError(field or "body", None, "a value: the field is required")
    if kind == "extra_forbidden":
        known = _fields_beside(path) if place == "body" else "a parameter of this path"
        return FieldError(field, value, known)
    if kind == "union_tag_invalid":
        field = f"{field}.{str(item['ctx']['discriminator']).strip(chr(39))}"
        return FieldError(field, item["ctx"]["tag"], f"one of {item['ctx']['expected_tags']}")
    if kind == "union_tag_not_found":
        return FieldError(f"{field}.name", None, "a value: the field is required")
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if place == "body" and not path:
        message = "a JSON object (Content-Type: application/json)"
    return FieldError(field or "body", value, message)


def _field_name(path: Sequence[str | int], body: object, kind: str) -> str:
    """Write ``path`` as a user would, without the tags that pydantic adds for the members of a union."""
    name, node = "", body
    for index, part in enumerate(path):
        is_last = index == len(path) - 1
        if isinstance(node, list) and isinstance(part, int) and part < len(node):
            name, node = f"{name}[{part}]", node[part]
        elif isinstance(node, dict) and (part in node or (is_last and kind == "missing")):
            name, node = f"{name}.{part}" if name else str(part), node.get(part)
    return name


def _fields_beside(path: Sequence[str | int]) -> str:
    """Say which fields exist where an unknown one was found."""
    schema = JobSpec.model_json_schema()
    node: Mapping[str, Any] = schema
    for part in path[:-1]:
        tagged = node.get("discriminator", {}).get("mapping", {}).get(part)  # a member of a union
        node = {"$ref": tagged} if tagged else node.get("properties", {}).get(part, {})
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    known = ", ".join(node.get("properties", {}))
    return f"one of the fields {known}" if known else "no such field"


def _short(value: object) -> object:
    """Return a JSON value that is short enough to send back."""
    text = json.dumps(value, default=repr)
    return json.loads(text) if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."
