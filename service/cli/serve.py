"""Starts the long-running processes: the API, with a worker as its child process, or a worker alone.

Both stop cleanly on SIGINT and SIGTERM. The child also stops when its standard input is closed, which the kernel does
when the API ends for any reason.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Final

from service import logs
from service.db.session import Database, create_schema
from service.db.studies import Studies
from service.settings import Settings

log = logging.getLogger(__name__)

STOP_S: Final = 10.0
"""Time that the worker gets to give its job back before it is killed."""

RESTART_S: Final = 1.0
"""Pause before a worker that ended by itself is replaced."""


def run(settings: Settings, *, with_worker: bool) -> None:
    """Serve the API until SIGINT or SIGTERM."""
    import uvicorn

    from service.api.app import create_app

    logs.configure(settings)
    create_schema(settings.database_url)
    listener = _listen(settings.host, settings.port)  # first, so that no worker is started if the port is taken
    keeper = _WorkerKeeper(settings) if with_worker else None

    def on_startup() -> None:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        log.info("starting", extra={"url": f"http://{host}:{listener.getsockname()[1]}"})
        if keeper:
            keeper.start()

    app = create_app(settings, on_startup)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # after its shutdown, uvicorn raises the signal again
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    try:
        server.run(sockets=[listener])
    finally:
        if keeper:
            keeper.stop()


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while ")[0]  # drop the address, which socket repeats
        raise OSError(f"cannot listen on {host}, port {port}: {reason}") from error
    # Connections inherit it. asyncio sets it only on sockets that it makes; without it an answer takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def migrate(settings: Settings) -> None:
    """Create our tables and Optuna's, or update them to this version. Several processes may do so at once."""
    logs.configure(settings)
    create_schema(settings.database_url)
    studies = Studies(settings.database_url)
    studies.open()
    studies.close()
    log.info("the database is ready")


def run_worker(settings: Settings, *, with_parent: bool = False) -> None:
    """Run a worker until SIGINT or SIGTERM; ``with_parent``, also until standard input is closed."""
    from service.engines.base import Engine
    from service.engines.local import LocalEngine
    from service.engines.ray_tune import RayEngine
    from service.worker import Worker

    logs.configure(settings)
    logs.tame_optuna()
    create_schema(settings.database_url)
    db = Database(settings.database_url)
    engines: dict[str, Engine] = {"optuna": LocalEngine(), "ray": RayEngine(settings.ray_address)}
    studies = Studies(settings.database_url)
    worker = Worker(settings, db, studies.open(), engines)
    for number in (signal.SIGINT, signal.SIGTERM):
        # A signal handler interrupts the main thread, which may hold the lock that stop() needs. So call it in another.
        signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
    if with_parent:
        threading.Thread(target=_stop_with_parent, args=(worker.stop,), daemon=True).start()
    try:
        worker.run_forever()
    finally:
        for engine in engines.values():
            engine.close()
        studies.close()
        db.close()


def _stop_with_parent(stop: Callable[[], None]) -> None:
    """Run in a thread of the worker: wait until the API closes our standard input or dies."""
    sys.stdin.buffer.read()
    stop()


class _WorkerKeeper(threading.Thread):
    """A thread of the API that runs a worker process, and starts a new one if it ends by itself."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="worker-keeper", daemon=True)
        self._environment = {
            **os.environ,
            "WARPTUNE_DATABASE_URL": settings.database_url,
            "WARPTUNE_ARTIFACTS_URL": settings.artifacts_url,
        }
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Keep one worker alive until :meth:`stop`. Runs in this thread."""
        command = [sys.executable, "-m", "service", "worker", "--with-parent"]
        while not self._stopping.is_set():
            # In its own session, so that Ctrl-C reaches only the API, which then stops the worker.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, env=self._environment, start_new_session=True
            )
            if self._stopping.is_set() and self._process.stdin:
                self._process.stdin.close()  # stop() was called while the process started
            code = self._process.wait()
            if not self._stopping.wait(RESTART_S):
                log.error("the worker process ended; starting another", extra={"exit_code": code})

    def stop(self) -> None:
        """Let the worker give its job back and wait for its end. Called from the main thread."""
        self._stopping.set()
        if not self.is_alive():
            return  # the API did not start
        process = self._process
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self.join()
