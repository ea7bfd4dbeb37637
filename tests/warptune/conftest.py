# Jobs of a private service, kept in a folder of the tests.
from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which a private service keeps its jobs."""
    monkeypatch.chdir(tmp_path)
    for name in ("WARPTUNE_URL", "WARPTUNE_DATABASE_URL", "WARPTUNE_ARTIFACTS_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
