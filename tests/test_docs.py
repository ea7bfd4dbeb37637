# The documents must keep up with the code: settings, error codes, commands, examples.
from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml

from service import errors
from service.cli.app import app
from service.errors import ServiceError
from service.planning.plan import make_plan
from service.settings import Settings
from service.spec.job import JobSpec
from service.states import JobState, TrialState

ROOT = Path(__file__).parent.parent
COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(field: str) -> None:
    default = Settings.model_fields[field].default
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    assert f"| `WARPTUNE_{field.upper()}` | `{shown}` |" in read("docs/settings.md")


def codes() -> set[str]:
    raised = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)}
    internal = {"service_error", "lease_lost", "job_failed"}
    api = "".join(path.read_text() for path in (ROOT / "service/api").glob("*.py"))
    literal = set(re.findall(r'problem\(\s*[\w.]+,\s*"(\w+)"', api))
    assert literal
    return raised - internal | literal


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_error_code_is_documented(code: str) -> None:
    assert f"| `{code}` |" in read("docs/jobs.md")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_spec_can_be_submitted(path: Path) -> None:
    make_plan(JobSpec.model_validate(yaml.safe_load(path.read_text())))


def test_the_spec_in_the_documents_is_the_default_one_but_for_what_it_shows() -> None:
    body = re.search(r"```yaml\n(.*?)```", read("docs/jobs.md"), re.DOTALL)
    assert body
    spec = JobSpec.model_validate(yaml.safe_load(body[1]))
    make_plan(spec)
    assert set(spec.model_fields_set) == set(JobSpec.model_fields)


@pytest.mark.parametrize("name", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_command_and_target_and_file_that_a_document_names_exists(name: str) -> None:
    text = read(name)
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)\b(?=[`\s]*(?:#|`|,|$))", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"warptune ([a-z]+(?:-[a-z]+)*)\b", text)) - {"processes"} <= COMMANDS
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / name).parent.joinpath(link).exists(), link
    for path in re.findall(r"`((?:service|tests|examples|warpadam|search_spaces)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("state", [*JobState, *TrialState])
def test_every_state_is_in_the_diagram_of_the_moves(state: str) -> None:
    header = read("service/states.py").split('"""')[0]
    assert re.search(rf"\b{state}\b", header)
