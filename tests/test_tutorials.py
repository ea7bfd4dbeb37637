"""Every command and every line of Python on the pages of the tutorials runs, or says why it does not.

A ``yaml`` block that begins with the name of a file becomes that file; ``sh`` and ``python`` blocks run
one after the other, in one folder. ``<!-- not run: REASON -->`` before a block leaves it out. Jobs are made small.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from service.client.private import private_service
from service.planning.plan import make_plan
from service.spec.job import JobSpec

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NAV = yaml.safe_load(re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text()))["nav"]
TUTORIALS = [
    page
    for section in NAV
    for name, pages in section.items()
    if name == "Tutorials"
    for item in pages
    for page in item.values()
]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
KINDS = {"sh", "python", "yaml", "json", "text"}
SERVE = "warptune serve\n"

SMALL = {
    r"trials_per_arm: \d+": "trials_per_arm: 2",
    r"\bsteps: \d+": "steps: 10",
    r"\btrials \d+": "trials 1",
    r"\bseeds \d+": "seeds 1",
    r"learn_tasks: \d+, learn_steps: \d+": "learn_tasks: 2, learn_steps: 10",
    r"evaluate_tasks: \d+": "evaluate_tasks: 2",
    r"(warptune tune .*)": r"\1 --trials 2 --steps 10",
}
"""What makes the jobs of a page small."""


class Block(NamedTuple):
    """A block of a page, and why it is not run."""

    kind: str
    text: str
    reason: str | None


def blocks(page: str) -> list[Block]:
    found = BLOCK.finditer((DOCS / page).read_text())
    return [Block(block["kind"], block["text"], block["reason"]) for block in found]


def small(text: str) -> str:
    for pattern, instead in SMALL.items():
        text = re.sub(pattern, instead, text)
    return text


def file_of(block: Block) -> str | None:
    """Return the name of the file that a block is."""
    named = re.match(r"# (\w+\.yaml)\n", block.text)
    return named[1] if named and block.kind == "yaml" else None


def test_the_tutorials_are_those_of_the_site() -> None:
    assert {"tutorial.md", "python.md", "families.md", "verdict.md", "scaling.md"} <= set(TUTORIALS)


@pytest.mark.parametrize("page", TUTORIALS)
def test_every_block_of_a_tutorial_has_a_kind_that_says_whether_it_runs(page: str) -> None:
    text = (DOCS / page).read_text()
    assert {block.kind for block in blocks(page)} <= KINDS
    assert text.count("<!-- not run: ") == sum(block.reason is not None for block in blocks(page))
    hidden = re.findall(r"^    (?:\S*bin/)?(?:warptune|python|pip|docker|make|export|curl) .*", text, re.MULTILINE)
    assert not hidden, "a command that is not in a block of the kind sh is never run"


@pytest.mark.parametrize("page", TUTORIALS)
def test_every_spec_of_a_tutorial_can_be_submitted(page: str) -> None:
    for block in blocks(page):
        if file_of(block):
            make_plan(JobSpec.model_validate(yaml.safe_load(block.text)))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in TUTORIALS if any(block.kind == "sh" for block in blocks(page))])
def test_every_command_of_a_tutorial_runs(page: str, tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "warptune").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m service "$@"\n')
    (commands / "warptune").chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}

    def run(found: Sequence[Block], **more: str) -> None:
        for block in found:
            if name := file_of(block):
                (folder / name).write_text(small(block.text))
            elif block.kind == "sh" and block.reason is None:
                command = ["bash", "-euo", "pipefail", "-c", small(block.text)]
                done = subprocess.run(command, cwd=folder, env=environment | more, capture_output=True, text=True)
                assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"

    found = blocks(page)
    served = next((at for at, block in enumerate(found) if block.text == SERVE), len(found))
    run(found[:served])
    if served < len(found):
        with private_service(folder=folder) as client:
            run(found[served + 1 :], WARPTUNE_URL=client.url)
