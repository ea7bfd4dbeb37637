"""Tune an autoencoder of handwritten digits on this machine and save the recommended optimizer.

Run it with ``make demo``. It starts the service with an empty database, submits a job, shows the progress and the
verdict, and stops the service. You can do the same with the ``warptune`` command.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from service.cli.client import ApiError, Client
from service.cli.display import show_recommendation, watch

SPEC: Final[dict[str, Any]] = {
    "name": "digits-autoencoder",
    "dataset": {"name": "digits"},
    "model": {"name": "autoencoder", "hidden": [96, 48], "code": 30, "activation": "tanh"},
    "search_space": {"preset": "quick"},
    "baselines": ["adamw"],
    "budget": {"trials_per_arm": 16, "steps": 300, "batch_size": 128},
    "resources": {"slots": 1},  # with one slot, the same seed gives the same result
    "confirm": {"seeds": 8},
    "seed": 0,
}

OUTPUT: Final = Path("recommended.py")
START_S: Final = 30.0


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_service(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the API and a worker with an empty SQLite database in ``folder``."""
    environment = {
        **os.environ,
        "WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/warptune.db",
        "WARPTUNE_ARTIFACTS_URL": str(folder / "artifacts"),
        "WARPTUNE_LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def wait_until_up(client: Client, service: subprocess.Popen[bytes]) -> None:
    """Wait until the service answers."""
    deadline = time.monotonic() + START_S
    while not client.is_up():
        if service.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the service did not start; see its messages above")
        time.sleep(0.1)


def run(console: Console, client: Client) -> int:
    """Run the job and save its recommendation; return the exit status."""
    console.print("Does a learned preconditioner help an autoencoder of handwritten digits? This takes a few minutes.")
    job = client.submit(SPEC)
    console.print(f"Job {job['id']} is running. Watch it at {client.url}/dashboard", highlight=False)
    job = dict(watch(console, client.watch(job["id"])))
    if job["state"] != "succeeded":
        console.print(f"[red]The job ended as {job['state']}.[/] {job['cause'] or ''}")
        return 1
    show_recommendation(console, client.recommendation(job["id"]))
    OUTPUT.write_bytes(client.export(job["id"], "python"))
    console.print(f"Saved to [bold]{OUTPUT}[/]. Run this file, or import make_optimizer from it.")
    return 0


def main() -> int:
    """Run the demo."""
    console, port = Console(), free_port()
    with tempfile.TemporaryDirectory(prefix="warptune-demo-") as folder, Client(f"http://127.0.0.1:{port}") as client:
        service = start_service(Path(folder), port)
        try:
            wait_until_up(client, service)
            return run(console, client)
        except ApiError as error:
            console.print(f"[red]{error}[/]")
            return 1
        except KeyboardInterrupt:
            console.print("stopped")
            return 130
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()


if __name__ == "__main__":
    sys.exit(main())
