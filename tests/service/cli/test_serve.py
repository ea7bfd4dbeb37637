# The processes as an operator starts them, through the command line.
from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from service import logs
from service.backup.make import make
from service.backup.tables import create_all
from service.cli.app import app
from service.cli.serve import _forget_secrets, _listen, process
from service.client.rest import Client
from service.db.session import Database
from service.db.studies import require_current_studies
from service.settings import Settings, child_environment
from tests.conftest import SpecMaker

WAIT_S = 60.0
CHEAP = {"preset": "quick", "overrides": {"structure": "diagonal"}}


class Service:
    """A running `warptune serve`."""

    def __init__(self, folder: Path, *arguments: str, scheme: str = "http") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/warptune.db",
            "WARPTUNE_ARTIFACTS_URL": str(folder / "artifacts"),
            "WARPTUNE_URL": self.url,
            "WARPTUNE_LEASE_S": "2",
        }
        command = [sys.executable, "-m", "service", "serve", "--port", str(self.port), *arguments]
        self.log = folder / "serve.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stderr=log, start_new_session=True)
        self.client = Client(self.url)
        wait_for(self.client.is_up)

    def warptune(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=WAIT_S)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def worker(self) -> psutil.Process | None:
        found = [p for p in self.descendants() if "worker" in p.cmdline()]
        return found[0] if found else None


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def make(*arguments: str, scheme: str = "http") -> Service:
        services.append(Service(tmp_path, *arguments, scheme=scheme))
        return services[-1]

    yield make
    for service in services:
        service.client.__exit__()
        if service.process.poll() is None:
            children = service.descendants()
            service.process.kill()
            service.process.wait()
            psutil.wait_procs(children, timeout=10)


Start = Callable[..., Service]


@pytest.mark.slow
@pytest.mark.kills
def test_a_job_from_the_command_line_survives_the_death_of_its_worker(
    start: Start, spec: SpecMaker, tmp_path: Path
) -> None:
    service = start()
    body = spec(budget={"trials_per_arm": 3, "steps": 400, "batch_size": 32}, search_space=CHEAP)
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(body))
    submitted = service.warptune("submit", str(file))
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.strip()

    def done() -> int:
        return sum(arm["trials"].get("complete", 0) for arm in service.client.job(job_id)["arms"])

    wait_for(lambda: done() >= 1)
    first = service.worker()
    assert first is not None
    before = done()
    first.kill()
    wait_for(lambda: service.client.job(job_id)["state"] == "succeeded")
    job = service.client.job(job_id)
    assert [arm["trials"] for arm in job["arms"]] == [{"complete": 3}, {"complete": 3}, {"complete": 1}]
    assert done() >= before
    shown = service.warptune("show", job_id)
    assert shown.returncode == 0
    assert "Does P help?" in shown.stdout
    exported = service.warptune("export", job_id, "--format", "yaml")
    assert yaml.safe_load(exported.stdout)["job"] == job_id

    children = service.descendants()
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(WAIT_S) == 0
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert "Traceback" not in service.log.read_text()


@pytest.mark.slow
@pytest.mark.kills
def test_ctrl_c_in_the_middle_of_a_job_gives_it_back_and_the_next_start_finishes_it(
    start: Start, spec: SpecMaker
) -> None:
    service = start()
    body = spec(budget={"trials_per_arm": 2, "steps": 400, "batch_size": 32}, search_space=CHEAP)
    job_id = service.client.submit(body)["id"]
    wait_for(lambda: service.client.job(job_id)["arms"][0]["trials"].get("running"))
    children = service.descendants()
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(WAIT_S) == 0
    assert psutil.wait_procs(children, timeout=5)[1] == []

    again = start()
    wait_for(lambda: again.client.job(job_id)["state"] == "succeeded")
    trials = again.client.trials(job_id)
    assert [trial["attempts"] for trial in trials] == [1] * 5  # the fifth is the untuned AdamW


@pytest.mark.kills
def test_a_worker_does_not_outlive_a_service_that_was_killed(start: Start) -> None:
    service = start()
    wait_for(service.worker)
    children = service.descendants()
    service.process.kill()
    assert psutil.wait_procs(children, timeout=20)[1] == []


def _without_sweep(log: str) -> str:
    """Leave out the lines about temporary files that other processes on this machine have left."""
    return "".join(line for line in log.splitlines(keepends=True) if " service.temporary: " not in line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_uvicorn_has_its_handlers_stops_the_service(tmp_path: Path, number: signal.Signals) -> None:
    code = f"""
import signal, sys, uvicorn
run = uvicorn.Server.run
def late(server, **options):
    print("signalled", flush=True)
    signal.raise_signal({int(number)})
    run(server, **options)
uvicorn.Server.run = late
from service.cli.app import app
app(["serve", "--port", "0", "--no-worker"])
"""
    settings = {
        "WARPTUNE_DATABASE_URL": f"sqlite:///{tmp_path}/x.db",
        "WARPTUNE_ARTIFACTS_URL": str(tmp_path / "files"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stdout) == (0, "signalled\n"), done.stderr


def test_a_port_that_is_taken_is_one_line(start: Start) -> None:
    service = start("--no-worker")
    assert service.worker() is None
    second = service.warptune("serve", "--port", str(service.port))
    assert second.returncode == 1
    said = _without_sweep(second.stderr)
    assert said == f"error: cannot listen on 127.0.0.1, port {service.port}: Address already in use\n"


def test_a_connection_sends_every_piece_of_an_answer_at_once() -> None:
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_bad_setting_is_named_with_its_value(start: Start) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "worker"],
        env={**os.environ, "WARPTUNE_LEASE_S": "soon"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 2
    assert "lease_s" in done.stderr
    assert "'soon'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["worker"]], ids=["serve", "worker"])
def test_a_user_for_the_slots_whom_nobody_knows_is_one_line(tmp_path: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", *command],
        env={
            **os.environ,
            "WARPTUNE_DATABASE_URL": f"sqlite:///{tmp_path}/warptune.db",
            "WARPTUNE_ARTIFACTS_URL": str(tmp_path / "artifacts"),
            "WARPTUNE_SLOT_USER": "no-such-user",
        },
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 1
    wrong = "WARPTUNE_SLOT_USER names the user no-such-user, whom this machine does not have"
    assert _without_sweep(done.stderr) == f"error: {wrong}\n"


COMMANDS = ("serve", "worker", "migrate", "keys list", "restore saved", "backup b", "verify")
OURS, OPTUNAS = "warptune_version", "alembic_version"
OTHER_VERSIONS = [(command, OURS, "0099_newer", "update warptune") for command in COMMANDS]
FROM_ELSEWHERE = [(command, "0003") for command in COMMANDS] + [("migrate", "0014_of_a_branch"), ("migrate", "f00d")]
OTHER_VERSIONS += [
    (command, OURS, revision, "or another database (WARPTUNE_DATABASE_URL)") for command, revision in FROM_ELSEWHERE
]
OTHER_VERSIONS += [(command, OURS, "0009_limits", "warptune migrate") for command in COMMANDS[-2:]]  # others update it
OTHER_VERSIONS += [
    (command, OPTUNAS, "v9.0.0", "pip install --upgrade optuna") for command in COMMANDS if command != "keys list"
]
OTHER_VERSIONS += [(command, OPTUNAS, "v3.0.0.d", "warptune migrate") for command in COMMANDS[-2:]]


@pytest.mark.parametrize(("command", "table", "version", "advice"), OTHER_VERSIONS)
def test_a_database_of_another_version_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, table: str, version: str, advice: str
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/warptune.db"
    monkeypatch.setenv("WARPTUNE_DATABASE_URL", url)
    monkeypatch.setenv("WARPTUNE_ARTIFACTS_URL", str(tmp_path / "artifacts"))
    create_all(url)
    make(Settings(), Path("saved"))
    with closing(sqlite3.connect(tmp_path / "warptune.db")) as connection, connection:
        connection.execute(f"UPDATE {table} SET version_num = ?", [version])
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 1, done.output
    line = done.stderr.splitlines()[-1]
    where = url if table == OURS else "(WARPTUNE_DATABASE_URL)"
    assert line.startswith(f"error: the database {where} has tables {version} of ")
    assert line.endswith(advice)
    assert not Path("b").exists()


def test_migrate_brings_the_tables_of_optuna_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/warptune.db"
    monkeypatch.setenv("WARPTUNE_DATABASE_URL", url)
    monkeypatch.setenv("WARPTUNE_ARTIFACTS_URL", str(tmp_path / "artifacts"))
    create_all(url)
    with closing(sqlite3.connect(tmp_path / "warptune.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    done = CliRunner().invoke(app, ["migrate"])
    assert done.exit_code == 0, done.output
    with closing(Database(url)) as database:
        require_current_studies(database)


def test_children_do_not_get_the_url_of_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/a.db\n")
    monkeypatch.delenv("WARPTUNE_DATABASE_URL", raising=False)
    monkeypatch.setenv("WARPTUNE_DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("WARPTUNE_ARTIFACTS_URL", str(tmp_path / "files"))
    monkeypatch.setattr(logs, "configure", lambda settings: None)
    with process() as settings:
        _forget_secrets()
        assert settings.database_url == f"sqlite:///{tmp_path}/a.db"
        assert not [name for name in child_environment() if "DATABASE_URL" in name]


def test_a_bad_secret_is_not_repeated(start: Start) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "worker"],
        env={**os.environ, "WARPTUNE_NOTIFY_SECRET": "whsec_c2hvcnQ=", "WARPTUNE_NOTIFY_HOSTS": "hooks.example.org"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 2
    assert "notify_secret (WARPTUNE_NOTIFY_SECRET): must be whsec_ and 24 to 64 bytes as base64" in done.stderr
    assert "c2hvcnQ" not in done.stderr
