"""Tune an autoencoder of handwritten digits on this machine and save the recommended optimizer.

Run it with ``make demo``. It starts the service with an empty database, submits a job, shows the progress and the
verdict, and stops the service. You can do the same with the ``warptune`` command.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from service.cli.display import show_recommendation, watch
from service.client.private import NotStartedError, private_service
from service.client.rest import ApiError, Client

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


def run(console: Console, client: Client) -> int:
    """Run the job and save its recommendation; return the exit status."""
    console.print("Does a learned preconditioner help an autoencoder of handwritten digits? This takes a few minutes.")
    job_id = client.submit(SPEC)["id"]
    console.print(f"Job {job_id} is running. Watch it at {client.url}/dashboard", highlight=False)
    ended = watch(console, client.watch(job_id))
    if ended["state"] != "succeeded":
        console.print(f"[red]The job ended as {ended['state']}.[/] {ended['cause'] or ''}")
        return 1
    show_recommendation(console, client.recommendation(job_id))
    OUTPUT.write_bytes(client.export(job_id, "python"))
    console.print(f"Saved to [bold]{OUTPUT}[/]. Run this file, or import make_optimizer from it.")
    return 0


def main() -> int:
    """Run the demo."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="warptune-demo-") as folder:
        settings = {
            "WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/warptune.db",
            "WARPTUNE_ARTIFACTS_URL": f"{folder}/artifacts",
        }
        try:
            with private_service(settings) as client:
                return run(console, client)
        except (ApiError, NotStartedError) as error:
            console.print(f"[red]{error}[/]")
            return 1
        except KeyboardInterrupt:
            console.print("stopped")
            return 130


if __name__ == "__main__":
    sys.exit(main())
