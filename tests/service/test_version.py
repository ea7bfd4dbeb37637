from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service import version
from service.version import SOURCES, differences, versions
from tests.bare_install import ROOT

DECIDE_NOTHING = {
    *("accounts", "artifacts", "errors", "registry", "settings", "states", "temporary", "version"),
    *("data.facts", "data.prepared", "spec.base", "spec.data", "spec.dataset_info"),
}
"""Modules of the service that training loads and that do not change a loss: files, settings, descriptions of data."""


def is_source(name: str) -> bool:
    path = name.replace(".", "/")
    return any(f"{path}.py" == source or f"{path}/".startswith(f"{source}/") for source in SOURCES)


def test_the_digest_covers_the_code_that_training_loads() -> None:
    script = (
        "import sys, service.training.loop, service.training.family_loop, service.training.own_loop, service.optimizers"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", f"{script}; print(*sys.modules)"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    ours = {name for name in loaded if name.startswith("service.") and name not in ("service.data", "service.spec")}
    assert len(ours) > len(DECIDE_NOTHING)
    assert {name for name in ours if not is_source(name)} == {f"service.{name}" for name in DECIDE_NOTHING}


def test_every_source_exists() -> None:
    assert [source for source in SOURCES if not (ROOT / source).exists()] == []


def test_a_change_of_any_source_changes_the_digest_and_a_change_elsewhere_does_not(tmp_path: Path) -> None:
    files = [tmp_path / (source if source.endswith(".py") else f"{source}/deep/er.py") for source in SOURCES]
    for file in (*files, other := tmp_path / "service/api/app.py"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    found = [version._code(tmp_path)]
    other.write_text("changed")
    (tmp_path / "warpadam/.#editor.py").symlink_to("nowhere")
    assert version._code(tmp_path) == found[0]
    for file in files:
        file.write_text("changed")
        found.append(version._code(tmp_path))
    files[0].rename(files[0].with_name("renamed.py"))
    assert len({*found, version._code(tmp_path)}) == len(SOURCES) + 2


def test_versions_tell_code_between_two_releases_apart() -> None:
    assert versions()["code"] == version._code(ROOT)
    assert not version.was_updated()
    assert len(versions()["code"]) == 12


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"torch": "1"}, {"torch": "1"}, ""),
        ({}, {}, ""),
        ({"warptune": "0.2.0", "torch": "1"}, {"warptune": "0.2.0", "torch": "2"}, "torch 1 instead of 2"),
        ({"torch": "1"}, {"torch": "1", "code": "a"}, "other code of warptune (unknown instead of a)"),
        ({"torch": "1", "numpy": "2"}, {"torch": "3"}, "torch 1 instead of 3, numpy 2 instead of none"),
        ({}, {"torch": "1"}, "versions that were not recorded"),
    ],
)
def test_only_versions_that_differ_are_named(there: dict[str, str], here: dict[str, str], said: str) -> None:
    assert differences(there, here) == said
