"""Turns pydantic's validation errors into ours, one for each field.

An error names the field as the user wrote it, so the tags that pydantic puts into the paths of unions are dropped. It
repeats the value, and says what would be right as a clause that follows the field's name: ``must be a list``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from search_spaces.errors import must_be_one_of, unknown_name
from service.errors import FieldError
from service.spec.base import ENTRYPOINT, ID, PRINTABLE, TAG
from service.spec.job import JobSpec, RangeOverride
from service.spec.metrics import likely_metric
from service.spec.models import MODELS

REQUIRED: Final = "is required"
OBJECT: Final = "must be a JSON object"
BOOLEAN: Final = "must be true or false"
SEND_JSON: Final = "Send a JSON body with the header Content-Type: application/json."

MESSAGES: Final = {
    "missing": REQUIRED,
    "model_type": OBJECT,
    "model_attributes_type": OBJECT,
    "dict_type": OBJECT,
    "list_type": "must be a list",
    "string_unicode": "must be text without half a surrogate pair",
    "bool_type": BOOLEAN,
    "bool_parsing": BOOLEAN,
}
"""What we say where pydantic's own message speaks of Python, by its type of error."""

PATTERNS: Final = {
    PRINTABLE: "must be text on one line, without control characters",
    ID: "must have only letters, digits, _ and -",
    TAG: "must begin with a letter or a digit, and have only these, dots, _ and -",
    ENTRYPOINT: "must be a module and a function, such as package.module:function",
    r"^[^\x00]*$": "must be text without the character NUL",
}
"""What we say where a text does not match a pattern, by the pattern."""

MAIN_FIELDS: Final = {
    "dataset": "name",
    "model": "name",
    "engine": "name",
    "family": "name",
    "objective": "metric",
    "search_space": "preset",
    "search": "sampler",
    "warm_start": "job",
}
"""Part of a spec -> the field that is meant by a text in place of the part."""

SUBJECT: Final = re.compile(r"^(Input|String|List|Dictionary) should ")
"""How most of pydantic's messages begin; the field's name takes the place of the subject."""

OUT_OF_RANGE: Final = re.compile(r"greater_than|less_than|too_short|too_long|finite_number")
UNKNOWN_NAME: Final = ("literal_error", "enum")
WRONG_TYPE: Final = ("_type", "_parsing", "_from_float")
"""pydantic's types of errors that have a code of their own; the last are endings of their names."""


def field_errors(
    items: Sequence[ErrorDetails], body: object, parameters: Sequence[str], top: type[BaseModel] = JobSpec
) -> list[FieldError]:
    """Turn pydantic's errors into ours, one for each field.

    Args:
        items: What ``errors()`` of the exception returned.
        body: The body that was sent, as far as it could be read.
        parameters: Names of the query parameters that the path has.
        top: The model that the body should have matched.
    """
    by_field: dict[str, FieldError] = {}
    for item in items:
        error = _body_error(item, body, top) if item["loc"][0] == "body" else _parameter_error(item, parameters)
        if earlier := by_field.get(error.field):  # pydantic reports every member of a union
            error = replace(earlier, message=f"{earlier.message} or {error.message.removeprefix('must be ')}")
        by_field[error.field] = error
    return list(by_field.values())


def _parameter_error(item: ErrorDetails, parameters: Sequence[str]) -> FieldError:
    name = ".".join(map(str, item["loc"][1:]))
    if item["type"] == "extra_forbidden":
        return _unknown_field(name, item["input"], name, parameters)
    return field_error(name, item)


def _body_error(item: ErrorDetails, body: object, top: type[BaseModel]) -> FieldError:
    path, kind, value = item["loc"][1:], item["type"], item["input"]
    if kind == "json_invalid":
        message = f"must be valid JSON: {item['ctx']['error']} at character {path[0]}"
        return FieldError("body", _excerpt(body, path[0]), message, code="invalid_json")
    field = _field_name(path, body, kind)
    if not field:
        missing = kind == "missing"
        return FieldError("body", value, REQUIRED if missing else OBJECT, SEND_JSON, _code(kind))
    if kind == "extra_forbidden":
        model = _model_at(path[:-1]) if path[:-1] else top
        return _unknown_field(field, value, path[-1], model.model_fields)
    if kind == "union_tag_invalid":
        return FieldError(f"{field}.name", value["name"], *must_be_one_of(value["name"], MODELS), "unknown_name")
    if kind == "union_tag_not_found":
        return FieldError(f"{field}.name", None, REQUIRED, code="missing")
    return field_error(field, item)


def field_error(field: str, item: ErrorDetails) -> FieldError:
    """Turn one of pydantic's errors into ours, without a look at unions and unknown fields."""
    kind = item["type"]
    message = MESSAGES.get(kind) or SUBJECT.sub("must ", item["msg"].replace(" after validation", ""))
    message = PATTERNS.get(item.get("ctx", {}).get("pattern", ""), message)
    value, hint = None if kind == "missing" else item["input"], None
    if kind in UNKNOWN_NAME:
        likely = likely_metric(str(value)) if field == "objective.metric" else None
        known = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        hint = f"Did you mean {likely!r}?" if likely else must_be_one_of(value, known)[1]
    elif message == OBJECT and isinstance(value, str) and field in MAIN_FIELDS:
        hint = f"Write {json.dumps({MAIN_FIELDS[field]: value}, ensure_ascii=False)}."
    return FieldError(field, value, message.removeprefix("Value error, "), hint, code=_code(kind))


def _unknown_field(field: str, value: object, name: object, known: Iterable[str]) -> FieldError:
    return FieldError(field, value, "is not a known field", unknown_name(name, known)[1], "unknown_field")


def _code(kind: str) -> str:
    if kind == "missing":
        return "missing"
    if kind in UNKNOWN_NAME:
        return "unknown_name"
    if OUT_OF_RANGE.search(kind):
        return "out_of_range"
    return "wrong_type" if kind.endswith(WRONG_TYPE) else "invalid"


def _field_name(path: Sequence[str | int], body: object, kind: str) -> str:
    """Write ``path`` as the user would, without the tags that pydantic adds for the members of a union."""
    name, node = "", body
    untagged = _without_tag(path)
    for index, part in enumerate(untagged):
        is_last = index == len(untagged) - 1
        if isinstance(node, list) and isinstance(part, int) and part < len(node):
            name, node = f"{name}[{part}]", node[part]
        elif isinstance(node, dict) and (part in node or (is_last and kind == "missing")):
            name, node = f"{name}.{part}" if name else str(part), node.get(part)
    return name


def _without_tag(path: Sequence[str | int]) -> Sequence[str | int]:
    """Drop the tag of a discriminated union; the body may have a field of the same name."""
    match path:
        case ["model", _, *rest]:
            return ["model", *rest]
        case ["search_space", "overrides", parameter, _, *rest]:
            return ["search_space", "overrides", parameter, *rest]
        case _:
            return path


def _model_at(path: Sequence[str | int]) -> type[BaseModel]:
    """Return the model of the part of the spec at ``path``."""
    match path:
        case ["model", str(tag)]:
            return MODELS[tag]
        case ["search_space", "overrides", *_]:
            return RangeOverride
    model: type[BaseModel] = JobSpec
    for part in path:
        if isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation)
    return model


def _model_in(annotation: object) -> type[BaseModel]:
    """Return the model of a field, of the items of its list, or of what it is when it is not null."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_model_in(item) for item in get_args(annotation) if item is not type(None))


def _excerpt(body: object, position: object) -> str:
    return body[position : position + 20] if isinstance(body, str) and isinstance(position, int) else ""
