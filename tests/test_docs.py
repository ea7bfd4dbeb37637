"""The documents keep up with the code: settings, error codes, commands, examples, rooms, links."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from http import HTTPStatus
from pathlib import Path

import pytest
import typer
import yaml

from service import errors
from service.api.problems import STATUS
from service.cli.app import app
from service.errors import ServiceError
from service.planning.plan import make_plan
from service.settings import Settings
from service.spec.job import JobSpec
from service.spec.metrics import METRICS, MetricEntry
from service.states import JobState, TrialState

ROOT = Path(__file__).parent.parent
COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
GLOSSARY = (
    *(
        "job",
        "arm",
        "baseline",
        "control",
        "untuned adamw",
        "trial",
        "budget",
        "split",
        "finalist",
        "confirmation run",
        "seed pair",
    ),
    *(
        "trivial predictor",
        "verdict",
        "p",
        "structure",
        "placement",
        "learner",
        "strategy",
        "family",
        "warm start",
        "break-even",
    ),
    *("worker", "engine", "slot"),
)


def read(name: str) -> str:
    return (ROOT / name).read_text()


def range_of(field: str) -> str:
    whole = Settings.model_json_schema()["properties"][field]
    limits = {name: limit for part in (whole, *whole.get("anyOf", ())) for name, limit in part.items()}
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    shown = [f"{word} {limits[name]:.10g}" for name, word in words.items() if name in limits]
    return ", ".join([*shown, *(f"`{choice}`" for choice in limits.get("enum", ()))])


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_documented_with_its_default_and_range(field: str) -> None:
    default = Settings.model_fields[field].default
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    assert f"| `WARPTUNE_{field.upper()}` | `{shown}` | {range_of(field)} | ".replace("|  |", "| |") in read(
        "docs/settings.md"
    )


def test_every_documented_setting_exists() -> None:
    documented = set(re.findall(r"^\| `(WARPTUNE_\w+)` \|", read("docs/settings.md"), re.MULTILINE))
    assert documented == {f"WARPTUNE_{field.upper()}" for field in Settings.model_fields}


def codes() -> set[str]:
    raised = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)}
    internal = {"service_error", "engine_lost", "outdated_worker", "lease_lost", "job_failed"}
    api = "".join(path.read_text() for path in (ROOT / "service/api").glob("*.py"))
    literal = set(re.findall(r'problem\(\s*[\w.]+,\s*"(\w+)"', api))
    assert literal
    return raised - internal | literal


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_error_code_is_documented(code: str) -> None:
    assert f"| `{code}` |" in read("docs/errors.md")


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.code)
def test_every_error_is_documented_with_its_status(kind: type[ServiceError]) -> None:
    assert f"| `{kind.code}` | {int(STATUS[kind])} |" in read("docs/errors.md")


def test_every_documented_error_code_exists() -> None:
    table = read("docs/errors.md").partition("## Wrong fields")[0]
    sources = "".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    for code in re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE):
        assert f'"{code}"' in sources or code in {status.name.lower() for status in HTTPStatus}, code


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_every_metric_is_documented_with_its_tasks_and_its_unit(metric: MetricEntry) -> None:
    row = re.search(rf"^\| `{metric.field}` \|.*$", read("docs/metrics.md").partition("## What each")[2], re.MULTILINE)
    assert row
    _, _, _, tasks, shown, _ = (cell.strip() for cell in row[0].split("|"))
    named = {"physics": "differential equations"}
    assert all(named.get(task, task) in tasks for task in metric.tasks)
    assert ("%" in shown, "units of the target" in shown) == (metric.unit == "percent", metric.unit == "target")


def field_codes() -> set[str]:
    """Return the codes that the service gives to wrong fields, where they are written out."""
    found = {"invalid"}
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "FieldError":
                given = [*node.args[4:5], *(word.value for word in node.keywords if word.arg == "code")]
                found |= {str(code.value) for code in given if isinstance(code, ast.Constant)}
    return found


def test_every_place_to_add_something_exists() -> None:
    section = read("docs/contributing.md").partition("## Add something")[2].partition("### Without")[0]
    paths = re.findall(r"`([\w/]+(?:\.py|/))`", section)
    assert paths
    for path in set(paths) - {"service/"}:
        assert (ROOT / "service" / path).exists(), path


def test_every_code_of_a_wrong_field_is_documented() -> None:
    section = read("docs/errors.md").partition("## Wrong fields")[2]
    assert field_codes() <= set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_spec_can_be_submitted(path: Path) -> None:
    make_plan(JobSpec.model_validate(yaml.safe_load(path.read_text())))


def test_the_spec_in_the_documents_is_the_default_one_but_for_what_it_shows() -> None:
    body = re.search(r"```yaml\n(.*?)```", read("docs/jobs.md"), re.DOTALL)
    assert body
    spec = JobSpec.model_validate(yaml.safe_load(body[1]))
    make_plan(spec)
    assert set(spec.model_fields_set) == set(JobSpec.model_fields)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_and_target_and_file_that_a_document_names_exists(name: str) -> None:
    text = read(name)
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)\b(?=[`\s]*(?:#|`|,|$))", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"(?<!from )warptune ([a-z]+(?:-[a-z]+)*)\b", text)) - {"processes"} <= COMMANDS
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / name).parent.joinpath(link).exists(), link
    for path in re.findall(r"`((?:service|tests|examples|warpadam|search_spaces|docs|docker)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_heading_finds_it(name: str) -> None:
    for link, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", read(name)):
        page = (ROOT / name).parent / link if link else ROOT / name
        headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_in_a_document(command: str) -> None:
    assert any(re.search(rf"warptune {command}\b", read(name)) for name in PAGES)


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_the_readme_or_the_home_page_of_the_site_leads_to_every_page(page: str) -> None:
    assert f"](docs/{page})" in read("README.md") or f"]({page})" in read("docs/index.md")


@pytest.mark.parametrize("target", ["check", "docs", "test", "test-ray", "test-slow", "test-all"])
def test_the_readme_names_the_targets_of_the_tests(target: str) -> None:
    assert f"| `make {target}` |" in read("README.md")


@pytest.mark.parametrize("term", GLOSSARY)
def test_every_term_is_in_the_glossary(term: str) -> None:
    defined = re.findall(r"^\*\*([^*]+)\.\*\* ", read("docs/glossary.md"), re.MULTILINE)
    assert term in [name.lower() for name in defined]


def test_the_picture_of_the_rooms_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/draw_rooms.py", "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_every_room_is_explained() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", read("docs/architecture.md"), re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    rooms = {
        path.stem for path in (ROOT / "service").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"__init__", "__main__"} <= explained


def test_the_changelog_begins_with_this_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    first = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert first
    assert first[1] == version


@pytest.mark.parametrize("state", [*JobState, *TrialState])
def test_every_state_is_in_the_diagram_of_the_moves(state: str) -> None:
    header = read("service/states.py").partition("\nclass ")[0]
    assert re.search(rf"\b{state}\b", header)
