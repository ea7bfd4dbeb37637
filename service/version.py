"""The version of the installed distribution, and of what its figures depend on."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

VERSION: Final = version("warptune")

FIGURES_DEPEND_ON: Final = ("torch", "numpy", "scikit-learn", "safetensors", "pytorch-optimizer")
"""Distributions that may change what a run ends with, or how a file is written."""


def versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of what its figures depend on, where that is installed."""
    found = {"python": platform.python_version(), "warptune": VERSION}
    for name in FIGURES_DEPEND_ON:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
