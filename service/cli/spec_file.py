# A job's spec as a file. Only the form is read here; the service checks the content, so that there is one checker.
"""Spec files: JSON, or YAML in which numbers and text are what they are in JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

NUMBER: Final = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
"""1e-3, which YAML 1.1 takes for text as it has no point."""


class SpecFileError(ValueError):
    """What a file holds could mean two things."""


class _SpecLoader(yaml.SafeLoader):
    """Knows 1e-3 as a number and leaves 2026-01-31 text, as YAML 1.2 and JSON do; no field may be there twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # not when it is constructed: what `<<` merges into a mapping is then among its keys
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        _refuse_twice(keys, node.start_mark.line + 1)
        return node


_SpecLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SpecLoader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def read_spec(path: Path) -> dict[str, Any]:
    """Read the body of a job from a file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is neither JSON nor YAML, or holds something else than fields with JSON values.
    """
    try:
        body = _parse(path.read_text(encoding="utf-8"))
    except SpecFileError as error:
        raise SpecFileError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error
    if not isinstance(body, dict):
        what = "nothing" if body is None else "a list" if isinstance(body, list) else "a single value"
        raise ValueError(f"{path} holds {what}, expected the fields of a job, such as dataset and model")
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a value that JSON does not have: {error}") from error
    return body


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_fields)
    except json.JSONDecodeError:
        return yaml.load(text, Loader=_SpecLoader)  # noqa: S506 - it is a SafeLoader


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twice([name for name, _ in pairs])
    return dict(pairs)


def _refuse_twice(names: list[str], line: int | None = None) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            where = f" in what begins in line {line}" if line else ""
            raise SpecFileError(f"the field {name!r} is there twice{where}")
