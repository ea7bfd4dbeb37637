"""The package as its users see it: its exports, what it loads, and its examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import search_spaces

MODULES = [module.name for module in pkgutil.iter_modules(search_spaces.__path__, "search_spaces.")]
ROOT = Path(search_spaces.__path__[0])


def test_everything_public_is_exported_once() -> None:
    public = {name for name, value in vars(search_spaces).items() if not name.startswith("_")}
    modules = {name.rpartition(".")[2] for name in MODULES} | {"annotations"}
    exported = set(search_spaces.__all__)
    assert len(exported) == len(search_spaces.__all__)
    assert exported >= public - modules
    assert all(hasattr(search_spaces, name) for name in exported)


def test_import_loads_neither_torch_nor_optuna() -> None:
    code = "import sys, search_spaces; print(sorted({'torch', 'optuna', 'service'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.strip() == "[]"


def test_presets_overrides_and_configs_load_neither_torch_nor_optuna() -> None:
    code = (
        "import sys; from search_spaces import *;"
        "space = apply_overrides(get_preset('default'), {'lr': 0.01}); describe(space);"
        "warpadam_config(space.first_trials[0]); adamw_config({'lr': 0.01});"
        "print(sorted({'torch', 'optuna'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_file_imports_only_the_layers_below(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    outside = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert outside <= {"search_spaces", "warpadam"} | ({"optuna"} if path.name == "to_optuna.py" else set())


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
