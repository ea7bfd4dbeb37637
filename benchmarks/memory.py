"""Watch the memory of the API, a worker and its slot over many small jobs: a leak would grow with them.

Run::

    python -m benchmarks.memory                  # 1,000 jobs
    python -m benchmarks.memory --jobs 500 --minutes 15

Each job is submitted, run to its verdict and read back: its page, events, trials, result, report and zip. A few jobs
are in the queue at any time. Memory is each process's own (``RssAnon``): after the first ``WARM_UP`` jobs, and then
after every quarter. A figure is the median of ``SETTLED`` readings, as memory goes up and down within a job. All go to
``benchmarks/memory.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import psutil

from service.client.rest import Client
from service.processes import memory_bytes

WARM_UP: Final = 50
"""Jobs before the first reading: caches fill, and libraries load on first use."""

AT_ONCE: Final = 4
"""Jobs that are queued or running at any time."""

SETTLED: Final = 9
"""Readings for each figure, one after every job."""

SPEC: Final[dict[str, Any]] = {
    "dataset": {"name": "wine"},
    "model": {"name": "mlp", "hidden": [8]},
    "search_space": {"preset": "quick", "overrides": {"structure": "diagonal"}},
    "search": {"sampler": "tpe", "pruner": "none"},
    "budget": {"trials_per_arm": 1, "steps": 2, "batch_size": 32},
    "confirm": {"seeds": 6, "top_k": 1},
}


def read_back(client: Client, job_id: str) -> None:
    """Read all that the API tells about a job."""
    client.job(job_id)
    list(client.events(job_id))
    for trial in client.trials(job_id):
        client.trial(job_id, trial["number"])
    client.recommendation(job_id)
    client.report(job_id)
    client.export(job_id, "zip")
    list(client.jobs(state="running"))


def memory(api: int, worker: int) -> dict[str, int]:
    """Return the bytes of each process, and of all slots."""
    slots = [child for child in psutil.Process(worker).children() if "spawn_main" in " ".join(child.cmdline())]
    return {
        "api": memory_bytes(api),
        "worker": memory_bytes(worker),
        "slot": sum(memory_bytes(slot.pid) for slot in slots),
    }


def measure(jobs: int, minutes: float, client: Client, api: int, worker: int) -> dict[int, dict[str, float]]:
    """Run jobs, and return the MiB of each process by the number of jobs done."""
    waiting: deque[str] = deque()
    recent: deque[dict[str, int]] = deque(maxlen=SETTLED)
    found: dict[int, dict[str, float]] = {}
    due = [WARM_UP, *(WARM_UP + jobs * quarter // 4 for quarter in (1, 2, 3, 4))]
    began = time.monotonic()
    for done in range(1, due[-1] + 1):
        while len(waiting) < AT_ONCE:
            waiting.append(client.submit(SPEC)["id"])
        job_id = waiting.popleft()
        while (state := client.job(job_id)["state"]) in ("queued", "running", "verifying"):
            time.sleep(0.02)
        assert state == "succeeded", f"{job_id} {state}"
        read_back(client, job_id)
        recent.append(memory(api, worker))
        out_of_time = time.monotonic() - began > 60 * minutes
        if done in due or out_of_time:
            found[done] = {name: statistics.median(item[name] for item in recent) / (1 << 20) for name in recent[0]}
            print(done, {name: f"{value:.1f} MiB" for name, value in found[done].items()}, flush=True)
        if out_of_time:
            break
    return found


def main() -> None:
    """Start the service, run the jobs, print the figures and save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="Jobs after the first reading. Default: 1000.")
    parser.add_argument("--minutes", type=float, default=60.0, help="Stop after this time. Default: 60.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {
            **os.environ,
            "WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/warptune.db",
            "WARPTUNE_ARTIFACTS_URL": f"{folder}/artifacts",
            "WARPTUNE_POLL_S": "0.05",
            "WARPTUNE_LOG_LEVEL": "WARNING",
        }
        service = [sys.executable, "-m", "service"]
        api = subprocess.Popen([*service, "serve", "--no-worker", "--port", str(port)], env=environment)
        worker = subprocess.Popen([*service, "worker"], env=environment)
        began = time.monotonic()
        try:
            with Client(f"http://127.0.0.1:{port}", retry_s=60) as client:
                found = measure(options.jobs, options.minutes, client, api.pid, worker.pid)
        finally:
            for process in (worker, api):
                process.terminate()
                process.wait()
    result = {
        "MiB after jobs": found,
        "seconds": time.monotonic() - began,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
