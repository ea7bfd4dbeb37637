# A process that has the base install only: whatever the extras bring is refused on import, as if it were not there.
from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parent.parent

MODULES: Final = {"scikit-learn": "sklearn", "pyyaml": "yaml", "python-json-logger": "pythonjsonlogger"}
"""Distributions whose module has another name."""

REQUIRED_BY_OTHERS: Final = {"filelock", "fsspec", "jinja2", "cloudpickle"}
"""Distributions of the extra that torch itself brings, and scikit-learn where a script needs that."""

PRELUDE: Final = """
import sys
class Finder:
    def __init__(self, inner):
        self.inner = inner
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {refused!r} else self.inner.find_spec(name, path, target)
sys.meta_path[:] = [Finder(inner) for inner in sys.meta_path]
sys.argv = ["warptune"]
"""


def refused() -> set[str]:
    """Return the modules of the extras `service` and `ray`."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {line.split("[")[0].split(">")[0] for extra in ("service", "ray") for line in extras[extra]}
    assert "fastapi" in names
    return {MODULES.get(name, name.replace("-", "_")) for name in names - REQUIRED_BY_OTHERS}


def run_bare(
    code: str, *, ours: bool = True, needed: Collection[str] = (), cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process; without ``ours`` the packages `service` and `search_spaces` are refused too.

    ``needed`` are modules of the extras that it may import.
    """
    names = (refused() | (set() if ours else {"service", "search_spaces"})) - set(needed)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PRELUDE.format(refused=sorted(names)) + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
