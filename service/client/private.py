"""A service for one program: it listens on a free port of this machine and stops with the program."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from service.client.rest import Client
from service.settings import DATA_FOLDER, PRIVATE_KEY, child_environment, require_folder

START_S: Final = 60.0
"""Longest time that the service may take to start."""


class NotStartedError(RuntimeError):
    """The private service did not start. The message says why, or the service has printed it."""


def private_environment(settings: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the environment of a private service with these settings and a key."""
    own = {PRIVATE_KEY: key, "WARPTUNE_TLS_CERTIFICATE": "", "WARPTUNE_TLS_KEY": ""}
    quiet = (
        {}
        if {"WARPTUNE_LOG_LEVEL", "WARPTUNE_LOG_LEVEL_FILE"} & os.environ.keys()
        else {"WARPTUNE_LOG_LEVEL": "WARNING"}
    )
    return child_environment({**quiet, **settings, **own})


@contextmanager
def private_service(
    settings: Mapping[str, str] | None = None, *, folder: Path | None = None, worker: bool = True
) -> Iterator[Client]:
    """Start the API and a worker, and connect to them. Both stop at the end, and when this process dies.

    The connection has a key of its own, so it works with a database that has API keys.

    Args:
        settings: Settings by their names in the environment, besides those that this process has.
        folder: Where it runs: relative paths in the settings begin there. None is the working directory.
        worker: Whether there is a worker. Without one, results can be read, but no job runs.

    Raises:
        NotStartedError: It does not answer, or its jobs cannot be kept in the folder.
    """
    environment = private_environment(settings or {}, key := secrets.token_urlsafe(32))
    if not {"WARPTUNE_DATABASE_URL", "WARPTUNE_DATABASE_URL_FILE"} & environment.keys():
        try:  # here, because what the process prints is not seen in a notebook
            require_folder((folder or Path.cwd()) / DATA_FOLDER)
        except OSError as error:
            raise NotStartedError(str(error)) from error
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-P", "-m", "service", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--with-parent"] if worker else ["--with-parent", "--no-worker"]
    with (
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True, cwd=folder) as server,
        Client(f"http://127.0.0.1:{port}", api_key=key) as client,
    ):
        try:
            deadline = time.monotonic() + START_S
            while not client.is_up():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise NotStartedError("the service did not start; see its messages above")
                time.sleep(0.1)
            yield client
        finally:
            server.terminate()
