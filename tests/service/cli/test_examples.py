"""``warptune examples`` copies the examples, and the wheel contains them."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.app import app

ROOT = Path(__file__).parents[3]
NAMES = sorted(path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".yaml"))


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["examples", *arguments])
    return result.exit_code, result.output


def test_the_examples_are_copied_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = _run()
    assert code == 0
    assert sorted(path.name for path in Path("examples").iterdir()) == NAMES
    assert "examples/make_churn.py  Writes churn.csv" in output
    subprocess.run([sys.executable, "examples/make_churn.py"], check=True)
    assert Path("churn.csv").read_text().count("\n") == 801


def test_a_folder_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, output = _run(str(tmp_path))
    assert code == 2
    assert "exists; choose another folder" in output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = _run(str(tmp_path / "file" / "examples"))
    assert code == 2
    assert "cannot write" in output


def test_an_installation_without_examples_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cli.offline.files", lambda package: tmp_path)
    code, output = _run(str(tmp_path / "new"))
    assert code == 1
    assert "this installation has no examples" in output


COPIED = {
    source
    for line in re.findall(r"^COPY (?!--)(.*)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    for source in line.split()[:-1]
}


@pytest.mark.slow
@pytest.mark.parametrize("of_the_image", [False, True])
def test_the_wheel_contains_the_examples_and_the_license(tmp_path: Path, of_the_image: bool) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    source = tmp_path / "source"
    for name in filter(None, tracked.split("\0")):  # a build leaves files beside what it builds
        if of_the_image and not {name, name.partition("/")[0]} & COPIED:
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        else:
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    assert {f"warptune/examples/{name}" for name in NAMES} <= set(packed)
    assert [name for name in packed if name.endswith("/licenses/LICENSE")]
    assert not [name for name in packed if name.startswith(("tests/", "benchmarks/", "examples/"))]
