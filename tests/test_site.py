"""What the site makes from the code, and that it loads nothing from elsewhere. `make docs` builds the whole site."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mkdocs.exceptions import PluginError

from service.api.app import create_app
from service.settings import Settings
from tests.test_docs import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs/site_pages.py"))


def page(uri: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=uri))


def test_the_reference_of_the_command_line_has_every_command_with_its_options(site: dict[str, Any]) -> None:
    text = site["command_line"]()
    for command in COMMANDS:
        assert f"## `warptune {command}`" in text
    assert "* `--target <str>`: Column to predict." in text


def test_the_reference_of_the_rest_api_has_every_route_and_every_schema_it_links_to(site: dict[str, Any]) -> None:
    pages, document = site["rest"](), create_app(Settings()).openapi()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"### {method.upper()} {path}\n" in pages["reference/rest.md"]
    for name, schema in document["components"]["schemas"].items():
        assert f"{{ #{name.lower()} }}\n" in pages["reference/schemas.md"]
        for field in schema.get("properties", {}):
            assert f"| `{field}` |" in pages["reference/schemas.md"]


def test_the_reference_of_python_has_every_public_name(site: dict[str, Any]) -> None:
    import warpadam
    import warptune

    text = site["python_api"]()
    for package in (warptune, warpadam):
        for name in package.__all__:
            assert f"::: {package.__name__}.{name}\n" in text


@pytest.mark.parametrize(
    ("uri", "link", "shown"),
    [
        ("jobs.md", "[x](datasets.md#formats)", "[x](datasets.md#formats)"),
        ("faq.md", "[x](../CHANGELOG.md)", "[x](reference/changelog.md)"),
        ("faq.md", "[x](adr/)", "[x](adr/index.md)"),
        ("user-code.md", "[both examples](../examples/)", "both examples"),
        ("reference/changelog.md", "[x](docs/metrics.md)", "[x](../metrics.md)"),
        ("reference/rest.md", "[x](schemas.md#jobspec)", "[x](schemas.md#jobspec)"),
        ("adr/0021-pages.md", "[x](0005-dependencies.md)", "[x](0005-dependencies.md)"),
        ("faq.md", "[x](https://example.org/a)", "[x](https://example.org/a)"),
    ],
)
def test_a_link_of_a_document_leads_to_its_page(site: dict[str, Any], uri: str, link: str, shown: str) -> None:
    assert site["on_page_markdown"](link, page=page(uri)) == shown


def test_the_picture_of_the_rooms_becomes_a_table(site: dict[str, Any]) -> None:
    picture = "```mermaid\nflowchart TD\n    basics[errors, logs]\n    cli --> api\n    cli --> basics\n```"
    shown = site["on_page_markdown"](picture, page=page("architecture.md"))
    assert "| `cli` | `api`, `basics` |" in shown
    assert "`basics` stands for: errors, logs." in shown


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://unpkg.com/mermaid.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.org/a.css">',
        "<img alt=x src=http://example.org/a.png>",
    ],
)
def test_a_page_that_loads_something_from_elsewhere_is_refused(site: dict[str, Any], tag: str) -> None:
    with pytest.raises(PluginError, match=r"faq\.md loads something from elsewhere"):
        site["on_post_page"](f"<p>{tag}</p>", page=page("faq.md"))
    harmless = '<script src="assets/a.js"></script><a href="https://example.org">x</a>'
    assert site["on_post_page"](harmless, page=page("faq.md")) == harmless
