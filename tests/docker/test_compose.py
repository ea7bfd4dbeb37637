# docker-compose.yml, .dockerignore and the Dockerfile against the code: whatever they name exists.
from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from service.cli.app import app
from service.settings import Settings
from tests.docker.services import INSTALLED_AS, ROOT, read_compose

SECRETS = {"POSTGRES_PASSWORD": "1f0c3a", "RAY_TOKEN_FILE": str(ROOT / "README.md")}
COMPOSE = read_compose(SECRETS)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(set(SERVICES) - {"postgres"})
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
CLUSTER = yaml.safe_load((ROOT / "docker/kuberay.yaml").read_text())["spec"]
REQUIRED = tuple(SECRETS)

needs_compose = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")


def config(*more: str, **secrets: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in REQUIRED}
    return subprocess.run(
        ["docker-compose", "-f", str(ROOT / "docker-compose.yml"), *more, "config"],
        capture_output=True,
        text=True,
        env=environment | secrets,
        cwd=ROOT,
    )


@needs_compose
def test_docker_compose_takes_the_file() -> None:
    done = config(**SECRETS)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) >= set(SERVICES) - {"ray-gpu"}


@needs_compose
def test_the_settings_of_the_page_about_scaling_reach_their_services(tmp_path: Path) -> None:
    page = (ROOT / "docs/scaling.md").read_text()
    (block,) = re.findall(r"^```yaml\n# docker-compose.override.yml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "more.yml").write_text(block)
    done = config("-f", str(tmp_path / "more.yml"), NOTIFY_SECRET="whsec_1f0c3a", **SECRETS)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    known = {f"WARPTUNE_{field.upper()}" for field in Settings.model_fields}
    for name in ("api", "worker"):
        environment = services[name]["environment"]
        assert set(SERVICES[name]["environment"]) < set(environment)
        assert environment["WARPTUNE_NOTIFY_SECRET"] == "whsec_1f0c3a"
        assert {variable for variable in environment if variable.startswith("WARPTUNE_")} <= known
        assert set(services[name]["networks"]) == {"backend", "outside"}


@needs_compose
@pytest.mark.parametrize("name", REQUIRED)
def test_a_secret_that_is_not_set_is_refused(name: str) -> None:
    done = config(**{key: value for key, value in SECRETS.items() if key != name})
    assert done.returncode != 0
    assert name in done.stderr


@pytest.mark.parametrize("name", OURS)
def test_every_command_exists(name: str) -> None:
    program, *rest = SERVICES[name]["command"]
    if program == "warptune":
        command = typer.main.get_command(app).commands[rest[0]]  # type: ignore[attr-defined]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(rest[1:]) <= options
    elif program == "ray":
        from ray.scripts.scripts import start

        assert rest[0] == "start"
        options = {option for parameter in start.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in rest[1:]} <= options
    else:
        (script,) = INSTALLED_AS[program]
        assert os.access(script, os.X_OK)
        assert f"docker/worker.sh /opt/warptune/bin/{program}\n" in DOCKERFILE


@pytest.mark.parametrize(("name", "port"), [("headGroupSpec", "port"), ("workerGroupSpecs", "node-manager-port")])
def test_the_nodes_of_kuberay_are_those_of_compose_and_probed_at_a_port_that_ray_listens_on(
    name: str, port: str
) -> None:
    from ray.scripts.scripts import start

    group = CLUSTER[name] if name == "headGroupSpec" else CLUSTER[name][0]
    options = {option for parameter in start.params for option in parameter.opts}
    assert {f"--{option}" for option in group["rayStartParams"]} <= options
    listens = int(group["rayStartParams"].get(port, 6379))
    (container,) = group["template"]["spec"]["containers"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["tcpSocket"] == {"port": listens}, "KubeRay's own probes ask the dashboard"
    assert {one["name"] for one in container["env"]} == set(SERVICES["ray-worker"]["environment"])
    assert container["image"] == SERVICES["ray-gpu"]["image"]


@pytest.mark.parametrize("variable", ["WARPTUNE_RAY_ADDRESS", "WARPTUNE_RAY_ADDRESS_FILE"])
def test_a_worker_joins_the_cluster_that_a_variable_or_a_file_names(tmp_path: Path, variable: str) -> None:
    for name in ("ray", "warptune"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$0" "$@"\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "address").write_text("head:6379\n")
    value = str(tmp_path / "address") if variable.endswith("_FILE") else "head:6379"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", variable: value}
    command = ["sh", str(ROOT / "docker/worker.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"{tmp_path}/ray start --address=head:6379 --num-cpus=0 --num-gpus=0 --disable-usage-stats",
        f"{tmp_path}/warptune worker",
    ]
    del environment[variable]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert "or WARPTUNE_RAY_ADDRESS must be set" in done.stderr


def test_the_operator_of_kuberay_knows_the_version_of_ray() -> None:
    assert f"ray=={CLUSTER['rayVersion']}" in (ROOT / "constraints.txt").read_text().split()


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_one_that_the_process_reads(name: str) -> None:
    known = {f"WARPTUNE_{field.upper()}" for field in Settings.model_fields} | {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}
    assert set(SERVICES[name]["environment"]) <= known


@pytest.mark.parametrize("name", sorted(name for name in OURS if name.startswith("ray") or name == "worker"))
def test_every_process_of_ray_asks_for_the_token(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == f"/run/secrets/{SERVICES[name]['secrets'][0]}"


def test_the_api_alone_has_a_port_and_a_way_out_and_listens_on_loopback() -> None:
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["api"]
    assert [name for name in SERVICES if SERVICES[name]["networks"] != ["backend"]] == ["api"]
    assert COMPOSE["networks"]["backend"] == {"internal": True}
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8000:8000"]
    assert SERVICES["api"]["environment"]["WARPTUNE_PORT"] == "8000"
    assert "EXPOSE 8000\n" in DOCKERFILE


@pytest.mark.parametrize("name", OURS)
def test_the_addresses_that_a_service_is_given_are_those_of_services(name: str) -> None:
    text = " ".join(map(str, [*SERVICES[name]["command"], *SERVICES[name]["environment"].values()]))
    for host in re.findall(r"(?:@|=|^|\s)([a-z][a-z-]*):\d+\b", text):
        assert host in SERVICES
    assert "--port=6379" in SERVICES["ray-head"]["command"]
    assert set(re.findall(r"ray-head:(\d+)", text)) <= {"6379"}


@pytest.mark.parametrize("name", OURS)
def test_what_a_service_uses_is_defined_and_starts_before_it(name: str) -> None:
    service = SERVICES[name]
    assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])
    assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
    for other, wanted in service.get("depends_on", {}).items():
        if wanted["condition"] == "service_healthy":
            assert "test" in SERVICES[other]["healthcheck"]
        else:
            assert (wanted["condition"], SERVICES[other]["restart"]) == ("service_completed_successfully", "no")


def test_what_trains_and_what_serves_share_the_artifacts() -> None:
    for name in ("api", "worker", "ray-worker", "ray-gpu"):
        assert "data:/data" in SERVICES[name]["volumes"]
    assert SERVICES["worker"]["environment"]["WARPTUNE_ARTIFACTS_URL"].startswith("/data/")


def test_the_image_is_built_from_what_is_there_and_runs_as_nobody_special() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in [word for word in line.split() if not word.startswith("--")][:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    assert re.search(r"^USER warptune$", DOCKERFILE, re.MULTILINE)
    (base,) = re.findall(r"^ARG BASE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    extras = re.findall(r'"\.\[(\w+)\]"', DOCKERFILE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= set(project["optional-dependencies"])
    assert {build["build"]["dockerfile"] for build in map(SERVICES.__getitem__, OURS)} == {"docker/Dockerfile"}
