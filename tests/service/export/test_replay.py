# A file that is not a complete, unchanged zip export is refused in a line, and nothing in it is run. Replays of real
# jobs are in test_files.py.
from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli.app import app
from service.export.replay import Bundle, why_they_differ
from service.version import versions

FILES = {"recommended.py": b"raise SystemExit('ran')", "recommended.json": b"{}", "data.npz": b"0" * 5000}


def manifest(**changes: Any) -> dict[str, Any]:
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    return {"format": "warptune.job", "format_version": 1, "files": sums, **changes}


def write(path: Path, files: dict[str, bytes], said: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, "manifest.json": json.dumps(said).encode()}.items():
            archive.writestr(name, content)
    return path


def refusal(path: Path, command: str = "replay", code: int = 1) -> str:
    done = CliRunner().invoke(app, [command, str(path), *(["new.csv"] if command == "predict" else [])])
    assert done.exit_code == code
    assert isinstance(done.exception, SystemExit)
    assert done.stderr.startswith("error: ")
    return done.stderr


RUN = {"expected": {"seed": 1, "test_loss": 1.0}, "expected_from_p": None}
NO_SIZES = {
    "arm": "adamw",
    "config": {},
    "sizes": [],
    "activation": "relu",
    "task": "classification",
    "steps": 1,
    "batch_size": 1,
}
NO_MANIFEST_FORMAT = {"format": "something", "format_version": 1, "files": {}}


@pytest.mark.parametrize(
    ("files", "said", "reason"),
    [
        ({**FILES, "data.npz": b"1"}, manifest(), "data.npz was changed: its SHA-256 is"),
        ({**FILES, "p.safetensors": b"1"}, manifest(), "p.safetensors was changed"),
        ({**FILES, "../evil.py": b"1"}, manifest(), "holds '../evil.py'; it may hold only"),
        ({**FILES, "/etc/evil": b"1"}, manifest(), "holds '/etc/evil'; it may hold only"),
        ({"recommended.py": b""}, manifest(), "is not the export of a job: it has no data.npz"),
        (FILES, manifest(files={}), "was changed"),
        (FILES, manifest(files=[]), "has no hashes of the files"),
        (FILES, [], "does not have the format warptune.job"),
        (FILES, NO_MANIFEST_FORMAT, "does not have the format warptune.job"),
        (FILES, manifest(format_version=2), "has format version 2, but warptune"),
        (FILES, manifest(), "does not describe a run: 'expected'"),
        (FILES, manifest(**RUN, run={"arm": "adamw"}), "does not describe a run"),
        (FILES, manifest(**RUN, run={"p_url": "/tmp/x"}), "run names a file"),
        (FILES, manifest(**RUN, run=NO_SIZES), "the run cannot be repeated here: IndexError"),
        (FILES, manifest(expected={"seed": 1, "test_loss": None}, expected_from_p=None), "nothing to compare with"),
    ],
)
def test_zip_that_is_no_whole_export_is_refused(
    tmp_path: Path, files: dict[str, bytes], said: object, reason: str
) -> None:
    assert reason in refusal(write(tmp_path / "job.zip", files, said)).replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["job.zip"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_zip_that_was_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "job.zip", FILES, manifest())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "is not a complete zip file" in refusal(path)


def test_zip_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "job.zip", FILES, manifest())
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0" * 5000, b"0" * 4999 + b"1"))
    assert "Bad CRC-32" in refusal(path)


@pytest.mark.parametrize("command", ["replay", "predict"])
def test_file_that_is_not_there_is_one_line(tmp_path: Path, command: str) -> None:
    assert "none.zip" in refusal(tmp_path / "none.zip", command, 2)


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (versions(), "no version differs, so another machine or number of threads may have recorded them"),
        (
            versions() | {"torch": "0.1", "code": "0" * 12},
            f"they were recorded with other code of warptune (000000000000 instead of {versions()['code']}), "
            f"torch 0.1 instead of {versions()['torch']}",
        ),
        ({}, "they were recorded with versions that were not recorded"),
    ],
)
def test_only_versions_that_differ_explain_a_difference(recorded: dict[str, str], said: str) -> None:
    assert why_they_differ(Bundle({"versions": recorded}, {})) == said
