"""Makes the pages of the site that are not written by hand; mkdocs calls it, as mkdocs.yml names it as a hook.

The references of the command line, the REST API and the Python API come from the code. Documents that stand outside of
docs/, such as the changelog, become pages too. A page that loads something from elsewhere is an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent.parent

OUTSIDE: Final = {
    "CHANGELOG.md": "reference/changelog.md",
    "benchmarks/optimizers/README.md": "reference/benchmark.md",
    "benchmarks/reading/README.md": "reference/reading.md",
    "docs/adr/": "adr/index.md",
}
"""Document -> the page that it becomes."""

PYTHON_API: Final = {
    "Tune from Python": "warptune",
    "The optimizer": "warpadam",
    "The result of a job": "service.result.job_result",
}
"""Heading -> package or module whose public names stand below it."""

REMOTE: Final = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
ATTRIBUTE: Final = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
PICTURE: Final = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK: Final = re.compile(r"(!?\[[^\]]*\])\(([^)#:\s]+)((?:#[^)]*)?)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of docs/ that the navigation does not name under How-to."""
    named = str(config.nav)
    others = [path.name for path in sorted((ROOT / "docs").glob("*.md")) if f"'{path.name}'" not in named]
    next(section["How-to"] for section in config.nav or [] if "How-to" in section).extend(others)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here to those in docs/."""
    from mkdocs.structure.files import File

    made = {
        "reference/cli.md": command_line(),
        **rest(),
        "reference/python.md": python_api(),
        "adr/index.md": decisions(),
    }
    made |= {page: (ROOT / name).read_text() for name, page in OUTSIDE.items() if name.endswith(".md")}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead the links of a page to pages of the site. A link to a file that has no page becomes plain text.

    A picture in Mermaid becomes a table of its arrows, as Mermaid's script would come from elsewhere.
    """
    uri = page.file.src_uri
    made_from = {made: name for name, made in OUTSIDE.items() if name.endswith(".md")}
    here = (ROOT / made_from.get(uri, f"docs/{uri}")).parent

    def lead(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        name = os.path.relpath(here / target, ROOT) + ("/" if target.endswith("/") else "")
        aim = OUTSIDE.get(name, name.removeprefix("docs/") if name.startswith("docs/") else None)
        if aim is None:
            return text[1:-1] if not text.startswith("!") else ""
        return f"{text}({os.path.relpath(aim, Path(uri).parent)}{anchor})"

    return LINK.sub(lead, PICTURE.sub(_arrows, markdown))


def _arrows(picture: re.Match[str]) -> str:
    aims: dict[str, list[str]] = {}
    for start, aim in re.findall(r"(\w+) --> (\w+)", picture[1]):
        aims.setdefault(start, []).append(f"`{aim}`")
    boxes = re.findall(r"(\w+)\[(.+)\]", picture[1])
    rows = [(f"`{start}`", ", ".join(found)) for start, found in aims.items()]
    return _table(("from", "arrows to"), rows) + "".join(f"\n`{box}` stands for: {names}.\n" for box, names in boxes)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Refuse a page that would load something from elsewhere.

    Raises:
        PluginError: It does.
    """
    from mkdocs.exceptions import PluginError

    if found := REMOTE.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from elsewhere: {found[0]}")
    return output


def decisions() -> str:
    """Return the list of the decisions."""
    paths = sorted((ROOT / "docs/adr").glob("*.md"))
    titles = [(path.name, path.read_text().partition("\n")[0].removeprefix("# ")) for path in paths]
    rows = "\n".join(f"- [{title}]({name})" for name, title in titles)
    return f"# Decisions\n\nWhat was decided, why, and what was given up.\n\n{rows}\n"


def command_line() -> str:
    """Return the reference of the command line."""
    command = [sys.executable, "-m", "typer", "service.cli.app", "utils", "docs", "--name", "warptune"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.replace("# `warptune`", "# Command line", 1)


def python_api() -> str:
    """Return the reference of the Python API, as directives that mkdocstrings fills in."""
    from importlib import import_module

    text = "# Python API\n"
    for heading, name in PYTHON_API.items():
        module = import_module(name)
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == name]
        names = getattr(module, "__all__", [key for key in own if not key.startswith("_")])
        text += f"\n## {heading}\n\n`{name}`\n"
        text += "".join(f"\n::: {name}.{item}\n" for item in names)
    return text


def rest() -> dict[str, str]:
    """Return the pages of the REST API, from its OpenAPI document."""
    from service.api.app import create_app
    from service.settings import Settings

    document = create_app(Settings()).openapi()
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    intro = (
        f"{document['info']['description']}\n\nA running service shows the same at `/docs`, where you can try each "
        "route, and gives the document itself at `/openapi.json`. [Errors](../errors.md) has the codes.\n"
    )
    routes = "".join(f"\n## {tag.capitalize()}\n\n" + "\n".join(found) for tag, found in by_tag.items())
    schemas = document["components"]["schemas"]
    fields = "\n".join(_schema(name, schemas[name]) for name in sorted(schemas))
    return {
        "reference/rest.md": f"# REST API\n\n{intro}{routes}",
        "reference/schemas.md": f"# REST schemas\n\nThe parts of requests and answers.\n\n{fields}",
    }


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    text = f"### {method.upper()} {path}\n\n{operation.get('description', '')}\n"
    if found := operation.get("parameters"):
        parameters = [
            (f"`{item['name']}`", item["in"], _kind(item["schema"]), _default(item["schema"]), item.get("description"))
            for item in found
        ]
        text += _table(("parameter", "in", "type", "default", "meaning"), parameters)
    if body := operation.get("requestBody"):
        text += f"\nBody: {_contents(body['content'])}\n"
    rows = [
        (status, answer["description"], _contents(answer.get("content", {})))
        for status, answer in sorted(operation["responses"].items())
    ]
    return text + _table(("status", "meaning", "answer"), rows)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    description, _, listed = schema.get("description", "").partition("Attributes:\n")
    meanings = dict(ATTRIBUTE.findall(listed))
    text = f"### {_short(name)} {{ #{name.lower()} }}\n\n{description}\n"
    if "enum" in schema:
        return f"{text}\nOne of {', '.join(f'`{value}`' for value in schema['enum'])}.\n"
    needed = schema.get("required", [])
    rows = [
        (
            f"`{field}`",
            _kind(part),
            "required" if field in needed else _default(part),
            part.get("description", meanings.get(field)),
        )
        for field, part in schema.get("properties", {}).items()
    ]
    return text + (_table(("field", "type", "default", "meaning"), rows) if rows else f"\n{_kind(schema)}\n")


def _short(name: str) -> str:
    """Return the name of a schema without its module, which it has if another one has the same name."""
    return name.rpartition("__")[2]


def _contents(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{_kind(part.get('schema', {}))} as `{kind}`" for kind, part in content.items())


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type of a value, with links to the schemas that it is made of."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{_short(name)}](schemas.md#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_kind, choices)))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any")
    if kind == "array":
        items = schema.get("prefixItems")
        return f"[{', '.join(map(_kind, items))}]" if items else f"list of {_kind(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    limits = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most", "exclusiveMaximum": "under"}
    said = [f"{words} {schema[limit]}" for limit, words in limits.items() if limit in schema]
    return f"{kind}, {', '.join(said)}" if said else str(kind)


def _default(schema: Mapping[str, Any]) -> str:
    return f"`{schema['default']}`" if "default" in schema else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = (" | ".join(" ".join((cell or "").replace("|", "\\|").split()) for cell in line) for line in lines)
    return "\n" + "\n".join(f"| {line} |" for line in cells) + "\n"
