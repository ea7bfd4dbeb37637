"""Helpers for tests that need a PostgreSQL server, or stop it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

postgresql_only = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)

FULL_POOL = 15
"""Connections that a pool of SQLAlchemy gives out at most, as it is by default."""


@contextmanager
def stopped(data: str) -> Iterator[None]:
    """Stop every process of the PostgreSQL server whose data is in a folder, as a machine that hangs would."""
    postmaster = psutil.Process(int(Path(data, "postmaster.pid").read_text().split()[0]))
    processes = [postmaster, *postmaster.children()]
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)
