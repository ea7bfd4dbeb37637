"""Imports go one way only, and processes that do not train do not load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("warpadam", "search_spaces", "service", "warptune")

MOST_IMPORTS = 15

# Inside the service: a room may import those above it in this list.
ROOMS = (
    {"errors", "settings", "version"},
    {"registry"},
    {"optimizers"},
    {"spec"},
    {"states", "temporary", "processes"},
    {"accounts"},
    {"artifacts"},
    {"data", "logs", "disk"},
    {"training", "db"},
    {"user_code"},
    {"planning"},
    {"result"},
    {"ledger"},
    {"submission"},
    {"engines"},
    {"recommend"},
    {"running"},
    {"export", "backup"},
    {"worker"},
    {"api"},
    {"client"},
    {"cli"},
    {"__main__"},
)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_down_only(package: str) -> None:
    above = LAYERS[LAYERS.index(package) + 1 :]
    for path in files(package):
        wrong = [name for name in imported(path) if name.split(".")[0] in above]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "service").parts[0].removesuffix(".py")


def test_every_room_of_the_service_imports_only_rooms_below_it() -> None:
    """So that there is no cycle between rooms either."""
    level = {room: index for index, rooms in enumerate(ROOMS) for room in rooms}
    for path in files("service"):
        room = room_of(path)
        if room == "__init__":
            continue
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "service" and len(parts) > 1 and parts[1] != room:
                assert level[parts[1]] < level[room], f"{path.relative_to(ROOT)} imports {name}"


def test_the_ledger_imports_neither_planning_nor_submission() -> None:
    for path in files("service/ledger"):
        wrong = [name for name in imported(path) if name.startswith(("service.planning", "service.submission"))]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_planning_reads_no_tables() -> None:
    for path in files("service/planning"):
        wrong = [name for name in imported(path) if name.startswith(("service.db", "service.ledger", "sqlalchemy"))]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def modules_of_the_service(path: Path) -> set[str]:
    """Return the modules of the service that a file imports, at its top or anywhere else."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_package = (ROOT / node.module.replace(".", "/")).is_dir()
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if is_package else {node.module}
    return {name for name in found if name.startswith("service.")}


def test_no_module_of_the_service_imports_more_than_15_others() -> None:
    for path in files("service"):
        names = modules_of_the_service(path)
        assert len(names) <= MOST_IMPORTS, f"{path.relative_to(ROOT)} imports {len(names)}: {sorted(names)}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("warpadam", {"torch", "numpy"}),
        ("warpadam.config", {"torch", "numpy"}),
        ("search_spaces", {"torch", "optuna"}),
        ("service.planning.plan", {"torch", "optuna", "sklearn", "scipy"}),
        ("service.api.app", {"torch", "sklearn", "scipy", "optuna", "numpy", "ray"}),
        ("service.worker", {"torch", "sklearn", "fastapi", "ray"}),
        ("warptune", {"torch", "sklearn", "optuna", "fastapi", "pandas"}),
        ("service.cli.app", {"torch", "optuna", "sqlalchemy.orm", "fastapi"}),
    ],
)
def test_a_module_does_not_load_what_its_process_should_not_pay_for(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
