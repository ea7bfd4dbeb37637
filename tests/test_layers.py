# The layers of the project: imports go down only, and the processes that must not pay for torch do not.
from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("warpadam", "search_spaces", "service")

# Inside the service: a room may import those to its left.
ROOMS = (
    {"errors"},
    {"registry"},
    {"optimizers"},
    {"spec"},
    {"states", "version", "settings", "artifacts"},
    {"data", "logs", "stored"},
    {"training", "db"},
    {"user_code"},
    {"planning"},
    {"ledger"},
    {"submission"},
    {"engines"},
    {"recommend"},
    {"running"},
    {"export"},
    {"worker", "deletion"},
    {"api"},
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


def test_every_room_of_the_service_imports_only_rooms_below_it() -> None:
    level = {room: index for index, rooms in enumerate(ROOMS) for room in rooms}
    for path in files("service"):
        room = path.relative_to(ROOT / "service").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "service" and len(parts) > 1 and parts[1] != room:
                assert level[parts[1]] < level[room], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("warpadam", {"torch", "numpy"}),
        ("warpadam.config", {"torch", "numpy"}),
        ("search_spaces", {"torch", "optuna"}),
        ("service.planning.plan", {"torch", "optuna", "sklearn", "scipy"}),
        ("service.api.app", {"torch", "sklearn", "scipy", "optuna", "numpy", "ray"}),
        ("service.worker", {"torch", "sklearn", "fastapi", "ray"}),
        ("service.cli.app", {"torch", "optuna", "sqlalchemy.orm", "fastapi"}),
    ],
)
def test_a_module_does_not_load_what_its_process_should_not_pay_for(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
