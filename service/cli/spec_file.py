"""Reads a job's spec from a JSON or YAML file, and writes one with comments. YAML values mean what they mean in JSON.

Only the form is checked here; the service checks the content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import yaml

from service.spec.base import SpecModel

MEANINGS: Final = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}
"""What a plain value is, and how it may begin: as in the core schema of YAML 1.2, and so as in JSON.

YAML 1.1, which the library follows, also reads 010 as 8, 1:30 as 90, 1_000 as 1000, no and off as false, 2026-01-31 as
a date, and 1e-3 as a text.
"""


class DuplicateFieldError(ValueError):
    """A file has the same field twice, so that it could mean two things."""


class _SpecLoader(yaml.SafeLoader):
    """Reads values as YAML 1.2 and JSON do, and refuses duplicate fields."""

    def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
        # before the mapping is constructed: afterwards, its keys include those that `<<` merges into it
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        _refuse_duplicates(keys, node.start_mark.line + 1)
        return node


_SpecLoader.yaml_implicit_resolvers = {}
for kind, (pattern, first) in MEANINGS.items():
    _SpecLoader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{pattern})$"), list(first))


class _SpecDumper(yaml.SafeDumper):
    """Quotes every text that the loader would read as something else, such as 1e3."""


_SpecDumper.yaml_implicit_resolvers = _SpecLoader.yaml_implicit_resolvers


def read_spec(path: Path) -> dict[str, object]:
    """Return the spec of a job that is in a file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not UTF-8, neither JSON nor YAML, or has something other than fields with JSON values.
    """
    try:
        body = _parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Save it with the encoding UTF-8") from error
    except DuplicateFieldError as error:
        raise DuplicateFieldError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error
    if not isinstance(body, dict):
        what = "nothing" if body is None else "a list" if isinstance(body, list) else "a single value"
        raise ValueError(f"{path} holds {what}, but must hold the fields of a job, such as dataset and model")
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a value that JSON does not have: {error}") from error
    return body


def write_spec(spec: Mapping[str, Any], about: Iterable[str]) -> str:
    """Return a spec as YAML in which every field is explained. Defaults are comments, to be changed when needed.

    Args:
        spec: The fields that are set.
        about: Lines for the top of the file.
    """
    from service.spec.job import JobSpec

    top = [*about, "Lines such as `# seed: 0` are defaults: remove the mark to change one."]
    return "".join(f"{line}\n" for line in (*(f"# {line}" for line in top), "", *_commented(JobSpec, spec)))


def _commented(part: type[SpecModel], given: Mapping[str, Any], mark: str = "# ") -> Iterator[str]:
    """Yield the lines of the fields of a part of a spec, each after its description; ``mark`` is before defaults."""
    from service.spec.models import MODELS

    for name, field in part.model_fields.items():
        yield from (f"# {line}" for line in wrap(field.description or "", 110))
        kind: object = MODELS[given[name]["name"]] if name == "model" else field.annotation
        unset = "" if name in given else mark
        if isinstance(kind, type) and issubclass(kind, SpecModel):
            yield f"{unset}{name}:"
            inner = _commented(kind, given.get(name, {}), "" if unset else mark)
            yield from (f"{unset}  {line}" for line in inner)
        else:
            value = [given.get(name, field.get_default(call_default_factory=True))]
            flow = yaml.dump(value, Dumper=_SpecDumper, default_flow_style=True, sort_keys=False, width=10_000)
            yield f"{unset}{name}: {flow.strip()[1:-1]}"


def _parse(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_fields)
    except json.JSONDecodeError:
        return yaml.load(text, Loader=_SpecLoader)  # noqa: S506 - it is a SafeLoader


def _fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    _refuse_duplicates([name for name, _ in pairs])
    return dict(pairs)


def _refuse_duplicates(names: list[str], line: int | None = None) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            where = f" in the mapping that begins in line {line}" if line else ""
            raise DuplicateFieldError(f"the field {name!r} appears twice{where}; remove one")
