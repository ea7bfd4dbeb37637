"""The package as a whole: its exports, its version, the cost of importing it, and its examples."""

from __future__ import annotations

import ast
import doctest
import importlib.metadata
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import warpadam

MODULES = sorted(m.name for m in pkgutil.walk_packages(warpadam.__path__, "warpadam."))


@pytest.mark.parametrize(
    "statement",
    ["import warpadam", "import warpadam; warpadam.__version__", "import warpadam.config", "import warpadam.errors"],
)
def test_import_does_not_load_torch(statement: str) -> None:
    check = f"import sys; {statement}; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_all_names_exactly_what_is_exported() -> None:
    public = {name for name, value in vars(warpadam).items() if not name.startswith("_") and not _is_module(value)}
    imported = {"annotations", "TYPE_CHECKING", "Final", "import_module"}
    assert set(warpadam.__all__) == (public - imported) | set(warpadam._NEED_TORCH)
    assert warpadam.__all__ == sorted(warpadam.__all__, key=lambda name: (not name.isupper(), name))


@pytest.mark.parametrize("name", warpadam.__all__)
def test_every_exported_name_resolves(name: str) -> None:
    assert getattr(warpadam, name) is not None


def test_dir_has_every_name_that_can_be_used() -> None:
    assert {*warpadam.__all__, "__version__", "__doc__"} <= set(dir(warpadam))
    check = "import sys, warpadam; dir(warpadam); raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_the_version_is_that_of_the_distribution() -> None:
    assert warpadam.__version__ == importlib.metadata.version("warptune")


def test_without_a_distribution_the_version_is_a_valid_one_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", not_installed)
    assert warpadam.__version__ == "0+unknown"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'warpadam' has no attribute 'Warper'"):
        _ = warpadam.Warper


@pytest.mark.parametrize("name", ["warpadam", *MODULES])
def test_doc_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_package_has_doc_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(examples) >= 8


def _is_module(value: object) -> bool:
    return isinstance(value, type(sys))


@pytest.mark.parametrize("learner", list(warpadam.Learner))
def test_no_learner_imports_another(learner: str) -> None:
    tree = ast.parse(Path(warpadam.__path__[0], "learners", f"{learner}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported.isdisjoint(f"warpadam.learners.{other}" for other in warpadam.Learner)
