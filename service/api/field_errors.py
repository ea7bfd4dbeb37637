# From pydantic's errors to ours: which field as its user would write it, what was given, what would be right. Knows how
# the spec's unions are tagged, as pydantic puts the tags into its paths; nothing of HTTP.
"""Validation errors of a request, field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, get_args

from pydantic import BaseModel

from search_spaces.errors import one_of
from service.errors import FieldError
from service.spec.job import JobSpec, RangeOverride
from service.spec.model import MODELS

REQUIRED: Final = "a value: the field is required"
OBJECT: Final = "a JSON object"

EXPECTED: Final = {
    "missing": REQUIRED,
    "union_tag_not_found": REQUIRED,
    "model_type": OBJECT,
    "model_attributes_type": OBJECT,
    "dict_type": OBJECT,
    "list_type": "a list",
    "string_unicode": "text without half a surrogate pair",
}
"""Kinds of errors whose own words are about Python."""

PREFIXES: Final = {
    "Input should be ": "",
    "String should have ": "",
    "String should match pattern ": "text that matches ",
    "List should have ": "",
    "Dictionary should have ": "",
}
"""How pydantic's messages begin, and what is said instead, after "expected"."""


def field_errors(
    items: Sequence[Mapping[str, Any]], body: object, parameters: Sequence[str], top: type[BaseModel] = JobSpec
) -> list[FieldError]:
    """Turn pydantic's errors into ours, one a field.

    Args:
        items: What ``errors()`` of the exception returned.
        body: The body that was sent, as far as it could be read.
        parameters: Names of the query parameters that the path has.
        top: What the body was to be.
    """
    by_field: dict[str, FieldError] = {}
    for item in items:
        error = _body_error(item, body, top) if item["loc"][0] == "body" else _parameter_error(item, parameters)
        if error.field in by_field:  # one error for each member of a union
            earlier = by_field[error.field]
            error = replace(earlier, message=f"{earlier.message}, or {error.message}")
        by_field[error.field] = error
    return list(by_field.values())


def _parameter_error(item: Mapping[str, Any], parameters: Sequence[str]) -> FieldError:
    name = ".".join(map(str, item["loc"][1:]))
    unknown = item["type"] == "extra_forbidden"
    return FieldError(name, item["input"], f"the name to be {one_of(name, parameters)}" if unknown else _expected(item))


def _body_error(item: Mapping[str, Any], body: object, top: type[BaseModel]) -> FieldError:
    path = item["loc"][1:]
    kind, value = item["type"], item["input"]
    if kind == "json_invalid":
        return FieldError("body", _excerpt(body, path[0]), f"valid JSON: {item['ctx']['error']} at character {path[0]}")
    field = _field_name(path, body, kind)
    if not field:
        missing = REQUIRED if kind == "missing" else OBJECT
        return FieldError("body", value, f"{missing} (Content-Type: application/json)")
    if kind == "extra_forbidden":
        model = _model_at(path[:-1]) if path[:-1] else top
        return FieldError(field, value, f"the name to be {one_of(path[-1], model.model_fields)}")
    if kind == "union_tag_invalid":
        return FieldError(f"{field}.name", value["name"], one_of(value["name"], MODELS))
    if kind == "union_tag_not_found":
        return FieldError(f"{field}.name", None, REQUIRED)
    return FieldError(field, None if kind == "missing" else value, _expected(item))


def _expected(item: Mapping[str, Any]) -> str:
    message = str(item["msg"]).replace(" after validation", "")
    if item["type"] in EXPECTED:
        return EXPECTED[item["type"]]
    return next((new + message.removeprefix(old) for old, new in PREFIXES.items() if message.startswith(old)), message)


def _field_name(path: Sequence[str | int], body: object, kind: str) -> str:
    """Write ``path`` as a user would, without the tags that pydantic adds for the members of a union."""
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
    """Drop the tag of the discriminated unions; those of a scalar are behind its place, where the body has ended."""
    match path:
        case ["model", _, *rest]:
            return ["model", *rest]
        case ["search_space", "overrides", parameter, _, *rest]:
            return ["search_space", "overrides", parameter, *rest]
        case _:
            return path


def _model_at(path: Sequence[str | int]) -> type[BaseModel]:
    """Return the part of the spec that is at ``path``."""
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


def _model_in(annotation: Any) -> type[BaseModel]:
    """Return the model that a field is of: itself, the items of its list, or what it is unless null."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_model_in(item) for item in get_args(annotation) if item is not type(None))


def _excerpt(body: object, position: int) -> str:
    return body[position : position + 20] if isinstance(body, str) else ""
