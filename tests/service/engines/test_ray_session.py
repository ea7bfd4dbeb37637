# A Ray of the worker's own: loopback only, and gone with the worker however that ends. Each in a process of its own.
from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from service.engines.ray_tune import RaySession, needed
from service.errors import JobFailedError
from service.spec.job import ResourcesSpec


@pytest.fixture
def embedded() -> Iterator[subprocess.Popen[str]]:
    """A process in which an embedded Ray has run something."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.service.engines.embedded_ray"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ran 1\n"
            yield process
        finally:
            process.kill()


def is_loopback(ip: str) -> bool:
    """Tell whether only this machine can reach an address; ``::ffff:127.0.0.1`` is one too."""
    address = ipaddress.ip_address(ip)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def processes_of_ray(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    names = [" ".join(child.cmdline()) for child in found]
    assert any("gcs_server" in name for name in names)
    assert any("raylet" in name for name in names)
    return found


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_an_embedded_ray_listens_on_loopback_only_and_dies_with_a_worker_that_is_killed(
    embedded: subprocess.Popen[str],
) -> None:
    ray = processes_of_ray(embedded)
    ours = {embedded.pid, *(process.pid for process in ray)}  # Ray's idle workers come and go
    listening = [
        connection.laddr.ip
        for connection in psutil.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN and connection.pid in ours and connection.laddr
    ]
    assert listening
    assert [ip for ip in listening if not is_loopback(ip)] == []
    embedded.kill()
    _, alive = psutil.wait_procs(ray, timeout=10)
    assert alive == []


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_close_ends_an_embedded_ray(embedded: subprocess.Popen[str]) -> None:
    ray = processes_of_ray(embedded)
    assert embedded.stdin is not None
    assert embedded.stdout is not None
    embedded.stdin.close()
    assert embedded.stdout.readline() == "closed\n"
    _, alive = psutil.wait_procs(ray, timeout=10)
    assert alive == []


def test_without_the_package_a_job_for_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        JobFailedError,
        match=r"engine.name: ray needs the package ray .* pip install '\.\[ray\]' in your clone",
    ):
        RaySession(None).connect()


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (ResourcesSpec(), {"CPU": 1.0}),
        (ResourcesSpec(cpus_per_trial=4, gpus_per_trial=0.5), {"CPU": 4.0, "GPU": 0.5}),
        (
            ResourcesSpec(memory_bytes=1 << 30, custom={"accelerator_type:A100": 0.001}),
            {"CPU": 1.0, "memory": float(1 << 30), "accelerator_type:A100": 0.001},
        ),
    ],
)
def test_what_a_trial_needs_in_rays_words(resources: ResourcesSpec, expected: dict[str, float]) -> None:
    assert needed(resources) == expected


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_when_the_own_ray_dies_the_run_is_not_to_blame_and_the_next_one_gets_another_ray(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.service.engines.dying_ray", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=environment, text=True, timeout=280)
    said = [line for line in done.stdout.splitlines() if line.startswith(("lost:", "ran"))]  # Ray writes there too
    assert said == ["lost: the worker's own Ray has died ended: 0", "ran complete"], done.stderr


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_a_job_that_is_halted_does_not_wait_for_a_cluster_that_does_not_answer() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.service.engines.absent_ray"]
    done = subprocess.run(command, capture_output=True, env=environment, text=True, timeout=100)
    said = [line for line in done.stdout.splitlines() if line.startswith(("halted", "failed", "closed"))]
    where = "the Ray cluster at 127.0.0.1:1 (WARPTUNE_RAY_ADDRESS)"
    failed = f"failed: cannot connect to {where}: it did not answer within 1 seconds"
    assert said == ["halted, begun: 0", failed, "closed"], done.stderr
