"""The commands ``serve``, ``worker`` and ``migrate``, which take their settings from the environment.

``serve`` runs the API, with a worker as its child process. Both stop cleanly on SIGINT and SIGTERM. The child also
stops when its standard input is closed, which the kernel does when the API ends for any reason.

What the commands run is imported inside them, so that the other commands do not wait for it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from service import logs
from service.cli.console import failure
from service.errors import DatabaseVersionError, OutdatedWorkerError
from service.settings import PRIVATE_KEY, Settings, child_environment

log = logging.getLogger(__name__)

WithParent = Annotated[bool, typer.Option(hidden=True, help="Stop when standard input is closed.")]

SECRETS: Final = (
    "WARPTUNE_DATABASE_URL",
    "WARPTUNE_DATABASE_URL_FILE",
    "WARPTUNE_ARTIFACTS_URL_FILE",
    "WARPTUNE_NOTIFY_SECRET",
    "WARPTUNE_NOTIFY_SECRET_FILE",
    "WARPTUNE_NOTIFY_HOSTS",  # without the secret, they are not valid
    "WARPTUNE_NOTIFY_HOSTS_FILE",
)
"""Variables that the children of a process do not get; a worker gets the URLs, the hosts and the secret themselves."""

STOP_S: Final = 10.0
"""Time that the worker gets to give its job back before it is killed."""

RESTART_S: Final = 1.0
"""Pause before a worker that ended by itself is replaced."""


def serve(
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on. Default: WARPTUNE_HOST, else 127.0.0.1. Any but a loopback address needs an "
            "API key: warptune keys create"
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="TCP port. Default: WARPTUNE_PORT, else 8000.")] = None,
    worker: Annotated[bool, typer.Option(help="Also start a worker, which runs the jobs.")] = True,
    with_parent: WithParent = False,
) -> None:
    """Start the service: the API, the dashboard and one worker. Stop it with Ctrl-C.

    Example: warptune serve --port 9000
    """
    with process(host=host, port=port) as settings:
        _forget_secrets()
        # for the children: those of the environment may be others, and wrong
        for variable, value in (("WARPTUNE_HOST", settings.host), ("WARPTUNE_PORT", str(settings.port))):
            os.environ.pop(f"{variable}_FILE", None)
            os.environ[variable] = value
        import uvicorn

        from service.api.app import create_app
        from service.db.studies import create_tables

        if worker and settings.slot_user is not None:
            from service.engines.local import SlotRules

            SlotRules.of(settings)  # if that fails, the worker would fail again and again
        private_key = os.environ.pop(PRIVATE_KEY, "").encode()  # not for the worker, which runs the code of users
        create_tables(settings.database_url)
        _require_key(settings)
        listener = _listen(settings.host, settings.port)  # first, so that no worker is started if the port is taken
        keeper = _WorkerKeeper(settings) if worker else None

        def on_startup() -> None:
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            scheme = "https" if settings.tls_certificate else "http"
            log.info("starting", extra={"url": f"{scheme}://{host}:{listener.getsockname()[1]}"})
            if not settings.is_private and not settings.tls_certificate:
                log.warning("without TLS, others can read API keys on their way; docs/security.md shows how to add it")
            if keeper:
                keeper.start()

        if with_parent:
            stop = partial(signal.raise_signal, signal.SIGTERM)
            threading.Thread(target=_stop_with_parent, args=(stop,), daemon=True).start()
        app = create_app(settings, on_startup)
        app.state.private_key = private_key
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # service/api/observed.py writes a line for each request
            forwarded_allow_ips=settings.trusted_proxies,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        server = uvicorn.Server(config)
        for number in (signal.SIGINT, signal.SIGTERM):  # before uvicorn does it, and when it raises them at its end
            signal.signal(number, server.handle_exit)
        app.state.is_stopping = lambda: server.should_exit
        try:
            server.run(sockets=[listener])
        finally:
            if keeper:
                keeper.stop()


def worker(
    with_parent: WithParent = False,
) -> None:
    """Start a worker: it runs the queued jobs of the database, one at a time, until you stop it."""
    with process() as settings:
        _forget_secrets()
        from service.db.session import Database
        from service.db.studies import Studies, create_tables
        from service.engines.local import LocalEngine, SlotRules
        from service.engines.ray_tune import RayEngine
        from service.worker import Worker

        logs.tame_optuna()
        rules = SlotRules.of(settings)
        create_tables(settings.database_url)
        db = Database(settings.database_url)
        engines: Mapping[str, LocalEngine | RayEngine] = {
            "optuna": LocalEngine(rules=rules),
            "ray": RayEngine(settings.ray_address),
        }
        studies = Studies(settings.database_url)
        runner = Worker(settings, db, studies.open(), engines)
        for number in (signal.SIGINT, signal.SIGTERM):
            # A signal handler interrupts the main thread, which may hold the lock that stop() needs: use another one.
            signal.signal(number, lambda *_: threading.Thread(target=runner.stop).start())
        if with_parent:
            threading.Thread(target=_stop_with_parent, args=(runner.stop,), daemon=True).start()
        try:
            runner.run_forever()
        finally:
            for engine in engines.values():
                engine.close()
            studies.close()
            db.close()


def migrate() -> None:
    """Create the database tables, or update them to this version. serve and worker also do this."""
    with process() as settings:
        from service.db.studies import Studies, create_tables

        create_tables(settings.database_url)
        studies = Studies(settings.database_url)
        studies.open()
        studies.close()
        log.info("the database is ready")


def read_settings(**changes: Any) -> Settings:
    """Return the settings of the environment, with those changes that are not None. End the command if one is wrong."""
    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        raise failure("\n".join(["a setting is not valid", *wrong_settings(error)]), 2) from None


@contextmanager
def process(**changes: Any) -> Iterator[Settings]:
    """Yield the settings of a process. Report in one line why it could not start or continue."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.artifacts import ArtifactStore
    from service.temporary import own_folder

    settings = read_settings(**changes)
    logs.configure(settings)
    try:
        with own_folder():
            ArtifactStore(settings.artifacts_url).sweep()
            yield settings
    except (
        OSError,
        SQLAlchemyError,
        DatabaseVersionError,
        OutdatedWorkerError,
        ModuleNotFoundError,  # there is no driver for the database
    ) as error:
        raise failure(str(error).partition("\n")[0]) from None


def _forget_secrets() -> None:
    """Take them out of the environment, so that no child that runs user code or reads files has them."""
    for name in SECRETS:
        os.environ.pop(name, None)


def wrong_settings(error: ValidationError) -> Iterator[str]:
    """Yield a line for each setting that is not valid."""
    from service.api.field_errors import field_error
    from service.client.rest import without_password

    for item in error.errors():
        if not item["loc"]:  # a file that a setting should be in
            yield f"  a setting {item['msg'].removeprefix('Value error, ')}"
            continue
        name = str(item["loc"][0])
        item["input"] = "***" if name == "notify_secret" else without_password(str(item["input"]))
        yield f"  {field_error(f'{name} (WARPTUNE_{name.upper()})', item)}"


def _require_key(settings: Settings) -> None:
    """End the command if others could reach a service that asks nobody for a key."""
    from service.db.session import Database
    from service.ledger import keys

    with closing(Database(settings.database_url)) as db:
        if settings.is_private or keys.exist(db):
            return
    raise failure(
        f"WARPTUNE_HOST is {settings.host}, which other machines may reach, and there is no API key yet. Make one "
        "first: warptune keys create --project NAME --scope admin"
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while ")[0]  # drop the address, which socket repeats
        raise OSError(f"cannot listen on {host}, port {port}: {reason}") from error
    # Connections inherit it. asyncio sets it only on sockets that it makes; without it an answer takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _stop_with_parent(stop: Callable[[], None]) -> None:
    """Run in a thread: wait until the process that started this one closes our standard input or dies."""
    while os.read(0, 1024):  # sys.stdin would hold a lock that the end of the process needs
        pass
    stop()


class _WorkerKeeper(threading.Thread):
    """A thread of the API that runs a worker process, and starts a new one if it ends by itself."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="worker-keeper", daemon=True)
        changes = {
            "WARPTUNE_DATABASE_URL": settings.database_url,
            "WARPTUNE_ARTIFACTS_URL": settings.artifacts_url,
            "WARPTUNE_PUBLIC_URL": settings.pages_url,
        }
        if settings.notify_secret is not None:
            changes["WARPTUNE_NOTIFY_SECRET"] = settings.notify_secret.get_secret_value()
            changes["WARPTUNE_NOTIFY_HOSTS"] = settings.notify_hosts or ""
        self._environment = child_environment(changes)
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Keep one worker alive until :meth:`stop`. Runs in this thread."""
        command = [sys.executable, "-P", "-m", "service", "worker", "--with-parent"]
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
