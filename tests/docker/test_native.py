# docker-compose.yml without containers: the commands and variables of its services, a real PostgreSQL, a Ray of
# three nodes behind a token, and a job through all of them.
from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
from sqlalchemy import create_engine, text

from service.client.rest import ApiError, Client
from service.spec.job import EngineSpec
from tests.docker.services import ROOT, Services, free_port, read_compose

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.postgres, pytest.mark.timeout(900)]

START_S = 150.0
JOB_S = 420.0
ENGINES = get_args(EngineSpec.model_fields["name"].annotation)


class Stack:
    """The running services."""

    def __init__(self, services: Services, url: str, ray_address: str) -> None:
        self.services, self.url, self.ray_address = services, url, ray_address


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # short: Ray and PostgreSQL have sockets below it
    with tempfile.TemporaryDirectory(prefix="wt-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def stack(folder: Path, postgres_server: str) -> Iterator[Stack]:
    password, port, ray_port = secrets.token_hex(24), free_port(), free_port()
    token = folder / "ray-token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o444)
    host = make_database(postgres_server, password)
    here = {
        "@postgres:5432/warptune": f"@/warptune?host={host}",
        "ray-head:6379": f"127.0.0.1:{ray_port}",
        "--port=6379": f"--port={ray_port}",
        "0.0.0.0": "127.0.0.1",
        "8000": str(port),
        "/data/": f"{folder}/",
        "/run/secrets/ray_token": str(token),
    }
    compose = read_compose({"POSTGRES_PASSWORD": password, "RAY_TOKEN_FILE": str(token)})
    services = Services(compose, here, folder)
    try:
        migrate = services.start("migrate")
        assert migrate.wait(START_S) == 0, services.log("migrate")
        services.start("ray-head")
        services.wait("ray-head", lambda: services.is_healthy("ray-head"), START_S)
        stack = Stack(services, f"http://127.0.0.1:{port}", f"127.0.0.1:{ray_port}")
        services.start("ray-worker")  # one node after the other, as two that start at once share a session's folder
        services.wait("ray-worker", lambda: "Ray runtime started" in services.log("ray-worker"), START_S)
        services.start("worker")
        services.wait("worker", lambda: "worker ready" in services.log("worker"), START_S)
        services.start("api")
        services.wait("api", lambda: answers(stack.url), START_S)
        yield stack
    finally:
        services.close()


def make_database(server: str, password: str) -> str:
    """Make the role and the database that the postgres image would make; return the folder of the server's socket."""
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE ROLE warptune LOGIN PASSWORD '{password}'"))
        connection.execute(text("CREATE DATABASE warptune OWNER warptune"))
    admin.dispose()
    return str(admin.url.query["host"])


def answers(url: str) -> bool:
    try:
        with Client(url) as client:
            return client.is_up()
    except ApiError:
        return False


def ask_ray(stack: Stack, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` as a driver of the cluster."""
    script = f"import ray; ray.init(address={stack.ray_address!r}, logging_level='ERROR', log_to_driver=False)\n"
    return subprocess.run(
        [sys.executable, "-c", script + textwrap.dedent(code)],
        env=stack.services.environment("worker") | environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_the_worker_joins_the_cluster_and_offers_it_nothing(stack: Stack) -> None:
    count = "print(sorted(node['Resources'].get('CPU', 0) > 0 for node in ray.nodes() if node['Alive']))"
    done = ask_ray(stack, count)
    assert done.stdout.strip() == "[False, False, True]", done.stderr


def test_the_cluster_runs_a_task_where_there_are_cpus(stack: Stack) -> None:
    done = ask_ray(stack, "print(ray.get(ray.remote(lambda: 6 * 7).remote()))")
    assert done.stdout.strip() == "42", done.stderr


def test_whoever_has_another_token_is_refused(stack: Stack, folder: Path) -> None:
    wrong = folder / "wrong-token"
    wrong.write_text(secrets.token_hex(32))
    done = ask_ray(stack, "print('in')", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode != 0
    assert "in" not in done.stdout.split()


def test_nothing_listens_on_more_than_loopback(stack: Stack) -> None:
    ours = {p.pid for started in stack.services.started for p in [started, *started.children(recursive=True)]}
    listening = [
        c.laddr.ip.removeprefix("::ffff:")
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.pid in ours and c.laddr
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_job_goes_through_all_of_them(stack: Stack, engine: str) -> None:
    spec: dict[str, Any] = {
        "name": f"compose-{engine}",
        "dataset": {"name": "wine"},
        "model": {"name": "mlp", "hidden": [8]},
        "search_space": {"preset": "quick"},
        "search": {"sampler": "random", "pruner": "none"},
        "engine": {"name": engine},
        "budget": {"trials_per_arm": 2, "steps": 10},
        "confirm": {"seeds": 6},
    }
    with Client(stack.url) as client:
        job = client.submit(spec)["id"]
        stack.services.wait("worker", lambda: client.job(job)["finished_at"] is not None, JOB_S)
        ended = client.job(job)
        assert ended["state"] == "succeeded", (ended["cause"], stack.services.log("worker"))
        assert client.recommendation(job).verdict


def test_ctrl_c_ends_everything_that_was_started(folder: Path) -> None:
    """The fixture's own way out, in a process of its own: a daemon of a daemon is gone too."""
    code = """
        import sys, time
        from pathlib import Path
        from tests.docker.services import Services
        shell = 'sleep 307.25 & setsid sleep 307.25 & exec sleep 307.25'
        compose = {'services': {'x': {'command': ['sh', '-c', shell], 'environment': {}}}}
        services = Services(compose, {}, Path(sys.argv[1]))
        try:
            services.start('x'); time.sleep(1); print('up', flush=True); time.sleep(60)
        finally:
            services.close()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    process.wait(30)
    process.stdout.close()
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "307.25"]]
    assert left == []
