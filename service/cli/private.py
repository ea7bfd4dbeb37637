"""A service for the time of a command: it listens on a free port of this machine and stops with the command."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from service.cli.client import Client

START_S: Final = 60.0
"""Longest time that the service may take to start."""


class NotStartedError(RuntimeError):
    """The private service did not start; it has printed why."""


@contextmanager
def private_service(settings: Mapping[str, str] | None = None) -> Iterator[Client]:
    """Start the API and a worker, and connect to them. Both stop at the end, and when this process dies.

    Args:
        settings: Settings by their names in the environment, besides those that this process has.

    Raises:
        NotStartedError: It does not answer.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--port", str(port), "--with-parent"]
    environment = {"WARPTUNE_LOG_LEVEL": "WARNING", **os.environ, **(settings or {})}
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + START_S
            while not client.is_up():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise NotStartedError("the service did not start; see its messages above")
                time.sleep(0.1)
            yield client
    finally:
        server.terminate()
        server.wait()
