# API keys on the command line: made and revoked next to the database, taken from the environment, asked for by serve.
from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from service.cli.app import app
from service.client.private import private_service
from service.client.rest import ApiError, Client
from service.db.session import Database
from service.ledger import keys
from service.settings import Settings
from tests.service.cli.test_serve import WAIT_S, Start, start

__all__ = ["start"]  # the fixture


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a database that is not there yet."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("WARPTUNE_DATABASE_URL", f"sqlite:///{tmp_path}/warptune.db")
    monkeypatch.setenv("WARPTUNE_ARTIFACTS_URL", f"{tmp_path}/artifacts")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def make_key(project: str = "vision", scope: str = "submit", *more: str) -> str:
    done = run("create", "--project", project, "--scope", scope, *more)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_a_key_is_printed_alone_and_only_once() -> None:
    first = run("create", "--project", "vision", "--scope", "submit", "--expires", "90d")
    assert re.fullmatch(r"wt_[0-9a-f]{8}_[\w-]{43}\n", first.stdout), "so that $(...) gets the key"
    assert "scope submit, valid until 2" in first.stderr
    assert "the service asks everybody for one" in first.stderr
    second = run("create", "--project", "b", "--scope", "read")
    assert "asks everybody" not in second.stderr
    assert "until it is revoked" in second.stderr
    listed = run("list").stdout
    assert len(listed.splitlines()) == 2
    for key in (first.stdout, second.stdout):
        _, key_id, secret = key.strip().split("_", 2)
        assert re.search(rf"^{key_id}  valid  ", listed, re.MULTILINE)
        assert secret not in listed


def test_a_key_is_revoked_by_its_id() -> None:
    key_id = make_key().split("_")[1]
    assert run("revoke", key_id).stdout == f"key {key_id} of project vision is revoked\n"
    assert re.match(rf"{key_id}  revoked  submit  vision  made ", run("list").stdout)
    assert run("revoke", key_id).exit_code == 0, "that it may be repeated"
    unknown = run("revoke", "00000000")
    assert (unknown.exit_code, "'00000000'" in unknown.stderr) == (2, True)


def test_without_keys_the_list_says_how_to_make_one() -> None:
    done = run("list")
    assert (done.stdout, "warptune keys create" in done.stderr) == ("", True)


@pytest.mark.parametrize("project", ["", "Vision", "a b", "-a", "a" * 65, "a/b", "ä"])
def test_a_project_needs_a_plain_name(project: str) -> None:
    done = run("create", "--project", project, "--scope", "read")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"(got {project!r})" in done.stderr
    assert run("list").stdout == ""


@pytest.mark.parametrize("expires", ["", "90", "d", "0d", "-1d", "1.5d", "1y", "999999d", "90 d"])
def test_a_time_that_cannot_be_read_is_refused(expires: str) -> None:
    done = run("create", "--project", "a", "--scope", "read", "--expires", expires)
    assert (done.exit_code, done.stdout) == (2, "")
    assert repr(expires) in done.stderr
    assert "90d" in done.stderr


def test_a_scope_that_is_none_is_refused() -> None:
    done = run("create", "--project", "a", "--scope", "write")
    assert (done.exit_code, "'write'" in done.stderr) == (2, True)


def test_no_command_takes_a_key_as_an_option() -> None:
    for command in ("submit", "jobs", "tune", "serve"):
        assert CliRunner().invoke(app, [command, "--api-key", "wt_x"]).exit_code == 2


def test_the_service_listens_on_no_other_address_without_a_key(place: Path) -> None:
    command = [sys.executable, "-m", "service", "serve", "--no-worker", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=os.environ)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "error: WARPTUNE_HOST is 0.0.0.0, which other machines may reach, and there is no API key yet. Make one "
        "first: warptune keys create --project NAME --scope admin\n"
    )


def test_the_clients_take_the_key_from_the_environment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key("vision", "read")
    service = start("--no-worker", "--host", "0.0.0.0")
    assert "without TLS" in service.log.read_text()
    refused = service.warptune("jobs")
    assert refused.returncode == 1
    assert "this service needs an API key: set WARPTUNE_API_KEY" in refused.stderr
    service.environment["WARPTUNE_API_KEY"] = f" {key}\n"
    assert service.warptune("jobs").returncode == 0
    deleted = service.warptune("delete", "--yes", "job-0")
    assert "this needs the scope submit" in deleted.stderr
    for wrong in ("wt_a b", "wt_ä"):
        service.environment["WARPTUNE_API_KEY"] = wrong
        done = service.warptune("jobs")
        assert done.returncode == 1
        assert "must be one word" in done.stderr
        assert wrong not in done.stderr
    monkeypatch.setenv("WARPTUNE_API_KEY", key)
    with Client(service.url) as client:
        assert list(client.jobs()) == []
    with Client(service.url, api_key="") as client, pytest.raises(ApiError) as caught:
        list(client.jobs())
    assert caught.value.status == 401


def test_a_service_of_ones_own_works_with_a_database_that_has_keys(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPTUNE_API_KEY", make_key())
    monkeypatch.setenv("WARPTUNE_TLS_CERTIFICATE", __file__)
    monkeypatch.setenv("WARPTUNE_TLS_KEY", __file__)
    with private_service(folder=place, worker=False) as client:
        assert list(client.jobs()) == []
        with Client(client.url, api_key="") as stranger, pytest.raises(ApiError, match="needs an API key"):
            list(stranger.jobs())


def test_tls_needs_a_certificate_and_its_key(place: Path) -> None:
    (place / "a.pem").touch()
    for name in ("tls_certificate", "tls_key"):
        with pytest.raises(ValidationError, match="must be set if WARPTUNE_TLS_CERTIFICATE is"):
            Settings.model_validate({name: str(place / "a.pem")})
    with pytest.raises(ValidationError, match="must be a file that exists"):
        Settings(tls_certificate=str(place / "b.pem"), tls_key=str(place / "a.pem"))


def test_the_service_speaks_https_with_a_certificate_of_ones_own(
    start: Start, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe of docs/security.md."""
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem -addext"
    subprocess.run([*made.split(), names], cwd=place, check=True, capture_output=True)
    monkeypatch.setenv("WARPTUNE_TLS_CERTIFICATE", str(place / "cert.pem"))
    monkeypatch.setenv("WARPTUNE_TLS_KEY", str(place / "key.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(place / "cert.pem"))
    key = make_key()
    service = start("--no-worker", scheme="https")
    assert f"url={service.url}" in service.log.read_text()
    service.environment["WARPTUNE_API_KEY"] = key
    shown = service.warptune("jobs")
    assert (shown.returncode, shown.stdout) == (0, ""), shown.stderr
    trusted = ssl.create_default_context(cafile=str(place / "cert.pem"))
    with httpx2.Client(base_url=service.url, verify=trusted) as browser:
        answer = browser.post("/sign-in", data={"key": key}, headers={"Origin": service.url})
        assert answer.status_code == 303
        assert "Secure" in answer.headers["set-cookie"]
        plain = service.url.replace("https", "http")
        assert browser.post("/sign-in", data={"key": key}, headers={"Origin": plain}).status_code == 403
        assert browser.get("/", headers={"Accept": "text/html"}).status_code == 200
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(plain)
    health_check = [sys.executable, str(Path(__file__).parents[3] / "docker" / "ready.py")]
    environment = {**service.environment, "WARPTUNE_PORT": str(urlsplit(service.url).port)}
    subprocess.run(health_check, env=environment, check=True)
    del environment["WARPTUNE_TLS_CERTIFICATE"], environment["WARPTUNE_TLS_KEY"]
    assert subprocess.run(health_check, env=environment, capture_output=True, check=False).returncode != 0


def test_the_word_of_a_trusted_proxy_counts_and_of_nobody_else(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = start("--no-worker")
    passed_on = {"X-Forwarded-For": "192.168.0.7", "X-Forwarded-Proto": "https"}
    assert httpx2.get(f"{service.url}/v1/jobs").status_code == 200
    assert httpx2.get(f"{service.url}/v1/jobs", headers=passed_on).status_code == 401, "it comes from elsewhere"
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    key, _ = keys.create(db, "vision", keys.Scope.READ)
    db.close()
    signed_in = httpx2.post(f"{service.url}/sign-in", data={"key": key}, headers=passed_on)
    assert "Secure" in signed_in.headers["set-cookie"]
    service.process.terminate()
    service.process.wait(WAIT_S)
    monkeypatch.setenv("WARPTUNE_TRUSTED_PROXIES", "10.0.0.1")
    service = start("--no-worker")
    signed_in = httpx2.post(f"{service.url}/sign-in", data={"key": key}, headers=passed_on)
    assert "Secure" not in signed_in.headers["set-cookie"]
