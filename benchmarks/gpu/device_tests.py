"""Runs the tests marked ``gpu``, one file a job. A toy run takes their CPU form."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from benchmarks.gpu.jobs import Figures, serve
from benchmarks.gpu.sizes import FAKE

FOLDER: Final = Path(__file__).parents[2] / "tests" / "warpadam" / "gpu"
JOBS: Final = tuple(sorted(path.name for path in FOLDER.glob("test_*.py")))


class _Outcomes:
    """Counts outcomes and keeps the message of each failure, as a plugin of pytest."""

    def __init__(self) -> None:
        self.counts = Counter({"passed": 0, "failed": 0, "skipped": 0})
        self.failures: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failures[report.nodeid] = str(getattr(crash, "message", report.longreprtext))[:500]


def run_tests(file: str) -> Figures:
    """Run the tests of one file; return how many passed, failed and were skipped, and the messages of failures."""
    outcomes = _Outcomes()
    options = ["-m", "not gpu" if FAKE else "gpu", "-W", "default", "-q", "-p", "no:cacheprovider"]
    here = ["--rootdir", str(FOLDER.parents[2]), "--confcutdir", str(FOLDER), "-o", "addopts=", str(FOLDER / file)]
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the figures
        status = pytest.main([*options, *here], plugins=[outcomes])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"pytest could not run {file}: {status!r}")
    return {**outcomes.counts, "failures": outcomes.failures}


if __name__ == "__main__":
    serve(run_tests)
