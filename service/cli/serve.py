# The long-running processes. `run` is the API and, as a child process, one worker; the child ends when its standard
# input is closed, so it never outlives the API however that ends. Both stop cleanly on SIGINT and SIGTERM.
"""Starting the API and workers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Final

from service import logs
from service.db.session import Database, create_schema
from service.db.studies import Studies
from service.settings import Settings

log = logging.getLogger(__name__)

STOP_S: Final = 10.0
"""Time that the worker gets to give its job back."""

RESTART_S: Final = 1.0
"""Pause before a worker that ended by itself is started again."""


def run(settings: Settings, *, with_worker: bool) -> None:
    """Serve the API until SIGINT or SIGTERM."""
    import uvicorn

    from service.api.app import create_app

    logs.configure(settings)
    create_schema(settings.database_url)
    listener = _listen(settings.host, settings.port)  # before a worker is started
    keeper = _WorkerKeeper(settings) if with_worker else None

    def on_startup() -> None:
        log.info("starting", extra={"url": f"http://{settings.host}:{listener.getsockname()[1]}"})
        if keeper:
            keeper.start()

    app = create_app(settings, on_startup)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn raises what stopped it once more when it has shut down
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    try:
        server.run(sockets=[listener])
        if not server.started:
            sys.exit(uvicorn.config.STARTUP_FAILURE)
    finally:
        if keeper:
            keeper.stop()


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (while ")[0]  # Python says the address once more
        raise OSError(f"cannot listen on {host}, port {port}: {reason}") from error
    # connections inherit it; asyncio sets it on its own sockets only, and without it an answer takes 40 ms more
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def migrate(settings: Settings) -> None:
    """Create our tables and Optuna's, or bring them to this version; safe from several processes at once."""
    logs.configure(settings)
    create_schema(settings.database_url)
    studies = Studies(settings.database_url)
    studies.open()
    studies.close()
    log.info("the database is ready")


def run_worker(settings: Settings, *, with_parent: bool = False) -> None:
    """Run a worker until SIGINT or SIGTERM, or until standard input is closed if it has a parent."""
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
        # in a thread: the handler may interrupt the very wait whose lock stop() needs
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


def _stop_with_parent(stop: object) -> None:
    assert callable(stop)
    sys.stdin.buffer.read()
    stop()


class _WorkerKeeper(threading.Thread):
    """Runs a worker process and starts it again if it ends by itself."""

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
        """Keep one worker alive until :meth:`stop`."""
        command = [sys.executable, "-m", "service", "worker", "--with-parent"]
        while not self._stopping.is_set():
            # a session of its own: Ctrl-C reaches the API alone, which then stops the worker
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, env=self._environment, start_new_session=True
            )
            if self._stopping.is_set() and self._process.stdin:
                self._process.stdin.close()  # stop() came while it was started
            code = self._process.wait()
            if not self._stopping.wait(RESTART_S):
                log.error("the worker ended and is started again", extra={"exit_code": code})

    def stop(self) -> None:
        """Ask the worker to give its job back, and wait for it."""
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
