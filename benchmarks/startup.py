"""Measure the seconds from starting ``warptune serve`` to its first answer.

Run::

    python -m benchmarks.startup

Each start uses a new SQLite database. For comparison, a FastAPI application with a single route starts on uvicorn; this
is the fastest start that our libraries allow. The two take turns, and the figures are medians of seven starts.
``ratio`` is the service's time divided by that of the bare application. Results go to ``benchmarks/startup.json``.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import httpx2

ROUNDS = 7
BARE = (
    "import fastapi, uvicorn, sys\n"
    "app = fastapi.FastAPI()\n"
    "app.get('/healthz')(lambda: {'status': 'ok'})\n"
    "uvicorn.run(app, port=int(sys.argv[1]), log_level='warning')\n"
)


def seconds_to_answer(command: list[str], port: int, environment: dict[str, str]) -> float:
    """Start a server, wait until its health check answers, and stop it; return the seconds until the answer."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/healthz").is_success:
                    return time.perf_counter() - started
            except httpx2.TransportError:
                if time.perf_counter() - started > 60:
                    raise
                time.sleep(0.01)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure both servers, print the medians and save the figures."""
    figures: dict[str, list[float]] = {"warptune": [], "bare": []}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            environment = {
                **os.environ,
                "WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/warptune.db",
                "WARPTUNE_ARTIFACTS_URL": f"{folder}/artifacts",
            }
            serve = [sys.executable, "-m", "service", "serve", "--port", str(port)]
            figures["warptune"].append(seconds_to_answer(serve, port, environment))
            figures["bare"].append(seconds_to_answer([sys.executable, "-c", BARE, str(port)], port, environment))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    result = {
        "seconds": figures,
        "median": medians,
        "ratio": medians["warptune"] / medians["bare"],
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("fastapi", "uvicorn", "sqlalchemy", "optuna", "warptune")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"warptune {medians['warptune']:.2f} s, bare FastAPI {medians['bare']:.2f} s, ratio {result['ratio']:.2f}")


if __name__ == "__main__":
    main()
