# User code is imported only where the operator allows it, and only the source that a job was submitted with.
from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch

from service.training.entrypoints import EntrypointError, load, load_allowed, loaded_sha256
from service.training.networks import build_network

SOURCE = """
import torch
from subprocess import run
from torch import nn
DRAWN = torch.rand(3)
def make_model(shape, outputs, task):
    return nn.Linear(shape[0], outputs * {times})
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module `lab.models` that the operator allows."""
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "__init__.py").touch()
    file = folder / "models.py"
    file.write_text(SOURCE.format(times=1))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", "lab.models, other")
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        monkeypatch.delitem(sys.modules, name)
    return file


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of WARPTUNE_CODE, which is not on the path of this process; its module `own_code` is allowed."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_code.py").write_text("from own_helper import LEVEL\ndef level():\n    return LEVEL\n")
    (folder / "own_helper.py").write_text("LEVEL = 1\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("WARPTUNE_CODE", str(folder))
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", "own_code")
    monkeypatch.setattr("service.training.entrypoints._sources", {})
    for name in ("own_code", "own_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("allowed", ["", "la", "lab.model", "lab.models.more", "other"])
def test_what_is_not_allowed_is_not_imported(lab: Path, monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", allowed)
    with pytest.raises(EntrypointError, match="the operator's setting WARPTUNE_ALLOWED_MODULES"):
        load_allowed("lab.models:make_model", sha256(lab))
    assert "lab.models" not in sys.modules


def test_an_allowed_module_is_imported_and_its_draws_change_no_seed(lab: Path) -> None:
    torch.manual_seed(0)
    spec = {"name": "entrypoint", "entrypoint": "lab.models:make_model", "config": {}, "task": "regression"}
    first = build_network({**spec, "sha256": sha256(lab)}, (), (4, 1), "")
    torch.manual_seed(0)
    again = build_network({**spec, "sha256": sha256(lab)}, (), (4, 1), "")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_changed_source_is_refused_for_the_old_job_and_imported_anew_for_the_next(lab: Path) -> None:
    old = sha256(lab)
    load_allowed("lab.models:make_model", old)
    lab.write_text(SOURCE.format(times=20))
    assert load_allowed("lab.models:make_model", sha256(lab))((4,), 1, "regression").out_features == 20
    with pytest.raises(EntrypointError, match=r"the source of lab\.models has changed since the job was submitted"):
        load_allowed("lab.models:make_model", old)


@pytest.mark.parametrize(
    ("entrypoint", "reason"),
    [
        (
            "lab.none:f",
            "lab.none cannot be imported: ModuleNotFoundError: No module named 'lab.none'; install it, or set "
            "WARPTUNE_CODE to the folder",
        ),
        ("lab.models:make", "lab.models has no function 'make'; it has make_model"),
        ("lab.models:DRAWN", "lab.models has no function 'DRAWN'"),
        ("sys:exit", "sys has no file"),
        ("lab.models:run", "lab.models:run is defined in subprocess; name a function of the module's own package"),
    ],
)
def test_what_cannot_be_imported_is_said_in_a_sentence(lab: Path, entrypoint: str, reason: str) -> None:
    with pytest.raises(EntrypointError, match=reason):
        load(entrypoint)


def test_a_module_that_raises_is_said_with_its_line(lab: Path) -> None:
    lab.write_text("import torch\nraise ValueError('not today')\n")
    with pytest.raises(EntrypointError, match=r"ValueError: not today \(models.py, line 2\)"):
        load("lab.models:make_model")


def test_modules_of_the_folder_for_code_are_found_last(code: Path) -> None:
    (code / "service").mkdir()
    (code / "service" / "settings.py").write_text("raise AssertionError('not this one')")
    (code / "json.py").write_text("raise AssertionError('not this one')")
    assert load("own_code:level")() == 1
    assert sys.path[-1] == str(code)
    assert "site-packages" not in str(sys.modules["json"].__file__)
    with pytest.raises(EntrypointError, match=r"another service comes before that of WARPTUNE_CODE, .*Rename yours"):
        load("service.fit:train")


def test_a_module_that_is_not_there_is_said_with_the_folder_that_was_looked_in(code: Path) -> None:
    with pytest.raises(EntrypointError, match=f"No module named 'mine'; looked among .* in {code}, the folder of"):
        load("mine:train")


def test_a_changed_helper_is_imported_anew_for_the_next_job(code: Path) -> None:
    load("own_code:level")
    first = loaded_sha256("own_code:level")
    (code / "own_helper.py").write_text("LEVEL = 2\n")
    assert load_allowed("own_code:level", first)() == 1  # the job goes on with what it was submitted with
    with pytest.raises(EntrypointError, match="the source of own_code has changed since the job was submitted"):
        load_allowed("own_code:level", "0" * 64)
    second = loaded_sha256("own_code:level")
    assert second != first
    assert load_allowed("own_code:level", second)() == 2


def test_a_module_without_others_has_the_sha256_of_its_file(code: Path) -> None:
    (code / "own_code.py").write_text("def level():\n    return 3\n")
    load("own_code:level")
    assert loaded_sha256("own_code:level") == sha256(code / "own_code.py")


def test_a_virtual_environment_in_the_folder_is_not_the_users_code(code: Path) -> None:
    packages = code / ".venv" / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "installed.py").write_text("VALUE = object()\n")
    sys.path.append(str(packages))
    (code / "own_code.py").write_text("from installed import VALUE\ndef level():\n    return VALUE\n")
    first = load("own_code:level")()
    (code / "own_code.py").write_text("from installed import VALUE\n\ndef level():\n    return VALUE\n")
    with pytest.raises(EntrypointError):
        load_allowed("own_code:level", "0" * 64)
    assert load("own_code:level")() is first
    del sys.modules["installed"]
