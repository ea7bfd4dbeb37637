"""The version of the installed distribution, and of what its figures depend on."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Final

VERSION: Final = version("warptune")

FIGURES_DEPEND_ON: Final = ("torch", "numpy", "scikit-learn", "safetensors", "pytorch-optimizer")
"""Distributions that may change what a run ends with, or how a file is written."""

PLUGINS: Final = "warptune.plugins"
"""Entry points of the distributions that add optimizers, models, tasks, metrics or datasets."""

SOURCES: Final = (
    "warpadam",
    "search_spaces/to_config.py",
    "service/data/arrays.py",
    "service/data/prepared_files.py",
    "service/optimizers",
    "service/planning/objective.py",
    "service/planning/plan.py",
    "service/spec/metrics.py",
    "service/spec/models.py",
    "service/spec/tasks.py",
    "service/training",
)
"""Files and folders with the code that decides what a run computes. Prepared data has a hash of its own."""


def versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of what its figures depend on, where that is installed.

    ``code`` is a digest of the code that decides what a run computes: between two releases, the version of the project
    stays the same while its code changes. Two runs may be compared if all of these are equal.

    They are found once per process, as a process goes on with the code that it has loaded.
    """
    return dict(_versions())


def was_updated() -> bool:
    """Return whether the files have changed since this process found its versions: new processes have others."""
    return dict(_find()) != versions()


@cache
def _versions() -> Mapping[str, str]:
    return _find()


def _find() -> Mapping[str, str]:
    found = {"python": platform.python_version(), "warptune": VERSION, "code": _code(Path(__file__).parents[1])}
    for name in FIGURES_DEPEND_ON:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    plugins = (point.dist for point in entry_points(group=PLUGINS))
    return found | {plugin.name: plugin.version or "unknown" for plugin in plugins if plugin is not None}


def _code(root: Path) -> str:
    """Return a short digest of the files of ``SOURCES``, in ``root``: a clone, or the folder where pip installs."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = root / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if file.name.startswith("."):  # of an editor: no module
                continue
            digest.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def without_builds(found: Mapping[str, str]) -> dict[str, str]:
    """Return versions without the part that names a build: that of torch says whether it is for a CPU or a GPU.

    >>> without_builds({"torch": "2.13.0+cu130"})
    {'torch': '2.13.0'}
    """
    return {name: version.partition("+")[0] for name, version in found.items()}


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Say which versions differ; empty if none does.

    >>> differences({"python": "3.11.7", "torch": "2.13.0"}, {"python": "3.11.7", "torch": "2.14.0"})
    'torch 2.13.0 instead of 2.14.0'
    >>> differences({"code": "ff96a39f12e4"}, {"code": "377ac70e73b2"})
    'other code of warptune (ff96a39f12e4 instead of 377ac70e73b2)'
    >>> differences({}, {"torch": "2.14.0"})
    'versions that were not recorded'
    """
    if not there and here:
        return "versions that were not recorded"
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ", ".join(_difference(name, there.get(name, "unknown"), here.get(name, "none")) for name in names)


def _difference(name: str, there: str, here: str) -> str:
    if name == "code":
        return f"other code of warptune ({there} instead of {here})"
    return f"{name} {there} instead of {here}"
