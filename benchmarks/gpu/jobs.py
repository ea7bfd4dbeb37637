"""Runs jobs in a process of their own, with a time limit, and collects what each one printed.

A job that ends its process (out of memory, a fault of the device) is recorded with its error, and a new process goes on
with the next job. So one failure costs one figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, Final

Figures = dict[str, Any]
"""What a job found, ready for JSON; or only ``error``, in words."""

NO_TIME: Final = {"error": "not measured: the time limit of this part was reached"}


def run_jobs(module: str, jobs: Sequence[str], seconds: float) -> dict[str, Figures]:
    """Run ``python -m module`` on the jobs, for at most ``seconds``; return the figures of every job, in their order.

    Args:
        module: It calls :func:`serve`.
        jobs: Their names, at least one.
        seconds: The time limit of all jobs together.
    """
    ends = time.monotonic() + seconds
    found: dict[str, Figures] = {}
    while waiting := [job for job in jobs if job not in found]:
        left = ends - time.monotonic()
        if left <= 0:
            found |= dict.fromkeys(waiting, NO_TIME)
            break
        done, problem = _run_process(module, waiting, left)
        found |= done
        failed = next((job for job in waiting if job not in done), None)
        if problem is not None and failed is not None:
            found[failed] = {"error": problem}
    return {job: found[job] for job in jobs}


def _run_process(module: str, jobs: Sequence[str], seconds: float) -> tuple[dict[str, Figures], str | None]:
    """Return the figures of the jobs that were finished, and why the next one was not; None if time ran out."""
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", module, *jobs]
        problem: str | None
        try:
            status = subprocess.run(command, stdout=printed, stderr=errors, timeout=seconds, check=False).returncode
            problem = f"process ended with status {status}: {_last_line(errors)}"
        except subprocess.TimeoutExpired:
            problem = None
        printed.seek(0)
        lines = [json.loads(line) for line in printed if line.endswith("}\n")]
    return {line["job"]: line["figures"] for line in lines}, problem


def _last_line(file: IO[str]) -> str:
    file.seek(0)
    lines = [line.strip() for line in file if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def serve(measure: Callable[[str], Figures]) -> None:
    """Measure the jobs named on the command line, and print each one's figures as a line of JSON."""
    for job in sys.argv[1:]:
        print(json.dumps({"job": job, "figures": measure(job)}), flush=True)
