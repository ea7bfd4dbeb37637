# Temporary files end with their process, also when it is killed.
from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from filelock import FileLock

from service import temporary
from service.artifacts import ArtifactStore
from service.temporary import own_folder, sweep

ROOT = Path(__file__).parents[2]

HOLD = """
import tempfile
from service.temporary import held_folder, own_folder
with {}() as folder:
    open(tempfile.mkdtemp(prefix="warptune-upload-", dir=folder) + "/source", "w").write("rows")
    print(folder, flush=True)
    input()
"""


@pytest.fixture
def common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The common folder for temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", "elsewhere")
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def start(kind: str) -> tuple[subprocess.Popen[str], Path]:
    """Start a process with a folder of this kind that has a file; return both."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(kind)], stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def age(path: Path) -> None:
    then = time.time() - temporary.KEPT_S - 60
    os.utime(path, (then, then))


def test_a_process_takes_its_temporary_files_with_it(common: Path) -> None:
    with own_folder() as folder:
        made = Path(tempfile.mkdtemp())
        assert made.parent == folder
        assert os.environ["TMPDIR"] == str(folder)
        with own_folder() as of_a_child:
            assert of_a_child.parent == common
    assert (os.environ["TMPDIR"], tempfile.gettempdir()) == (str(common), str(common))
    assert list(common.iterdir()) == []


@pytest.mark.kills
@pytest.mark.parametrize("kind", ["own_folder", "held_folder"])
def test_what_a_killed_process_left_is_deleted_at_the_next_start_and_what_a_living_one_uses_is_not(
    common: Path, kind: str
) -> None:
    dead, left = start(kind)
    alive, used = start(kind)
    age(used)
    dead.kill()
    dead.communicate()
    assert list(left.rglob("source"))
    with own_folder():
        assert not left.exists()
        assert list(used.rglob("source"))
    alive.communicate("\n")
    assert list(common.iterdir()) == []


def test_folders_of_commands_are_deleted_by_age_and_those_of_others_are_not(common: Path) -> None:
    for name in ("warptune-upload-abcd1234", "warptune-user-code-abcd1234", "warptune-process-no-lock1"):
        (common / name).mkdir()
        (common / name / "file").touch()
        sweep(common)
        assert (common / name).exists()
        age(common / name)
        sweep(common)
        assert not (common / name).exists()
    for name in ("warptune-results", "warptune-my-own-abcd1234", "something"):
        (common / name).mkdir()
        age(common / name)
        sweep(common)
        assert (common / name).exists()


def test_every_temporary_folder_of_the_service_is_one_that_is_deleted() -> None:
    prefixes = [
        prefix
        for package in ("service", "warptune")
        for path in (ROOT / package).rglob("*.py")
        for prefix in re.findall(r'(?:TemporaryDirectory|mkdtemp)\(prefix="([^"]*)"', path.read_text())
    ]
    assert len(prefixes) > 10
    for prefix in prefixes:
        assert temporary.OURS.fullmatch(f"{prefix}abcd_123"), prefix


def test_unfinished_files_of_the_store_are_deleted_by_age(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    store.put("job-0", "data.npz", b"rows")
    folder = tmp_path / "jobs/job-0"
    old, new, kept = folder / "data.npz.ab12cd34.part", folder / "p.ab12cd34.part", folder / "data.npz"
    probe = tmp_path / ".ready-ab12cd34"
    for path in (old, new, probe):
        path.write_bytes(b"half")
    for path in (old, kept, probe):
        age(path)
    store.sweep()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["data.npz", "p.ab12cd34.part"]


def test_a_process_that_starts_at_the_same_moment_does_not_take_a_folder_for_abandoned(
    common: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Overtaken(FileLock):
        """A lock, between whose file and lock another process starts."""

        def _acquire(self) -> None:
            Path(self.lock_file).touch()
            with monkeypatch.context() as other:
                other.setattr(temporary, "FileLock", FileLock)
                sweep(common)
            super()._acquire()

    monkeypatch.setattr(temporary, "FileLock", Overtaken)
    with own_folder() as folder:
        sweep(common)
        assert folder.is_dir()
