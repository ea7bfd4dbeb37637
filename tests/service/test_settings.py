# Settings from files, as secrets are passed.
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
from pydantic import ValidationError

from service.accounts import user_code_popen
from service.cli.serve import _forget_secrets, _WorkerKeeper
from service.client.private import private_environment
from service.engines.ray_tune import RaySession
from service.settings import Settings, child_environment
from warptune.training_loop import write_module

URL = "postgresql+psycopg://warptune:0123456789@db/warptune"


def test_a_setting_is_read_from_the_file_that_a_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(f"{URL}\n")
    monkeypatch.delenv("WARPTUNE_DATABASE_URL", raising=False)
    monkeypatch.setenv("WARPTUNE_DATABASE_URL_FILE", str(tmp_path / "secret"))
    assert Settings().database_url == URL


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPTUNE_PORT_FILE", str(tmp_path / "none"))
    with pytest.raises(ValidationError, match=r"WARPTUNE_PORT_FILE, and '.*none' cannot be read"):
        Settings()


def test_a_setting_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("8001")
    monkeypatch.setenv("WARPTUNE_PORT_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("WARPTUNE_PORT", "8002")
    with pytest.raises(ValidationError, match="in both WARPTUNE_PORT and WARPTUNE_PORT_FILE"):
        Settings()


@pytest.mark.parametrize("rest", ["warptune:Postgres@db/warptune", "db/warptune?user=warptune&password=p%61ssword"])
def test_a_well_known_password_is_refused_wherever_the_url_has_it(rest: str) -> None:
    with pytest.raises(ValidationError, match="must not have a well-known password"):
        Settings(database_url=f"postgresql+psycopg://{rest}")


OPTIONAL: Final = [name for name, field in Settings.model_fields.items() if field.default is None]


@pytest.mark.parametrize("field", OPTIONAL)
def test_an_empty_variable_is_none(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"WARPTUNE_{field.upper()}", "")
    assert getattr(Settings(), field) is None


def test_an_empty_address_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the own Ray listens on loopback only."""
    monkeypatch.setattr("ray.init", lambda **_: None)
    session = RaySession("")
    with patch.dict(os.environ, {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}):
        assert session.connect()
        session.close()
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


@pytest.mark.parametrize("proxies", ["10.0.0.1/24", "proxy.example.org", "127.0.0.1;10.0.0.7", "10.0.0"])
def test_a_proxy_that_nobody_could_be_is_refused(proxies: str) -> None:
    with pytest.raises(ValidationError, match=r"must list addresses or networks, such as 10.0.0.7 or 10.0.0.0/24"):
        Settings(trusted_proxies=proxies)
    assert Settings(trusted_proxies="10.0.0.7, 10.1.0.0/16,::1").trusted_proxies
    assert Settings(trusted_proxies="*").trusted_proxies


def test_the_address_that_kubernetes_gives_for_a_service_of_our_name_is_no_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WARPTUNE_PORT", "tcp://10.0.0.1:8000")
    assert Settings().port == 8000
    monkeypatch.setenv("WARPTUNE_PORT", "tcp")
    with pytest.raises(ValidationError, match="port"):
        Settings()


VALUES: Final = dict.fromkeys(Settings.model_fields, "300000000") | {
    "log_level": "DEBUG",
    "log_format": "json",
    "database_url": "sqlite:///other.db",
    "host": "127.0.0.2",
    "allowed_hosts": "tune.example.org",
    "trusted_proxies": "10.0.0.7",
    "port": "8001",
    "tls_certificate": __file__,
    "tls_key": __file__,
    "read_rate": "5/second",
    "write_rate": "5/second",
    "sign_in_rate": "5/second",
    "slot_nice": "1",
    "slot_cpus": "0",
    "slot_user": "nobody",
    "allowed_modules": "models",
    "code": str(Path(__file__).parent),
    "notify_secret": "whsec_" + "A" * 32,
    "notify_hosts": "hooks.example.org",
    "public_url": "https://tune.example.org",
    "poll_s": "0.5",
    "plugins": "tests.service.toy_plugin",
}
"""A value of each setting; the number is one that all others take."""


@pytest.fixture
def in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """Puts a setting, and one that it needs, into files, and reads it."""

    def put(field: str) -> Settings:
        needed = {"tls_certificate": "tls_key", "tls_key": "tls_certificate", "notify_hosts": "notify_secret"}
        for name in filter(None, (field, needed.get(field))):
            (tmp_path / name).write_text(f"{VALUES[name]}\n")
            monkeypatch.delenv(f"WARPTUNE_{name.upper()}", raising=False)
            monkeypatch.setenv(f"WARPTUNE_{name.upper()}_FILE", str(tmp_path / name))
        return Settings()

    return put


def settings_in(environment: dict[str, str], **arguments: Any) -> Settings:
    with patch.dict(os.environ, environment, clear=True):
        return Settings(**arguments)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_any_setting_can_be_in_a_file_for_the_children_too(field: str, in_files: Callable[[str], Settings]) -> None:
    ours = in_files(field)
    assert field in ours.model_fields_set
    assert getattr(ours, field) != Settings.model_fields[field].default
    with patch.dict(os.environ):
        _forget_secrets()
        worker = settings_in(_WorkerKeeper(ours)._environment)
        user_code = settings_in(user_code_popen(ours, [])["env"])
        assert settings_in(child_environment()).cpus_of_slots == user_code.cpus_of_slots == ours.cpus_of_slots
    assert worker.model_copy(update={"public_url": ours.public_url}) == ours
    assert worker.pages_url == ours.pages_url
    private = settings_in(private_environment({"WARPTUNE_USER_CODE_LIMIT_S": "5"}, "key"), host="127.0.0.1", port=1)
    changed = {"host", "port", "tls_certificate", "tls_key", "user_code_limit_s"}
    changed |= {"log_level"} - {field}
    assert private.model_dump(exclude=changed) == ours.model_dump(exclude=changed)
    assert (private.port, private.tls_certificate, private.user_code_limit_s) == (1, None, 5)


def test_an_empty_variable_beside_a_file_is_not_set(
    in_files: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPTUNE_NOTIFY_SECRET", "")
    secret = in_files("notify_secret").notify_secret
    assert secret is not None
    monkeypatch.setenv("WARPTUNE_NOTIFY_SECRET", "")
    assert Settings().notify_secret == secret


def test_a_private_service_logs_what_it_is_told_to() -> None:
    for told, level in (({}, "WARNING"), ({"WARPTUNE_LOG_LEVEL": "ERROR"}, "ERROR")):
        assert settings_in(private_environment(told, "key")).log_level == level


def test_plug_ins_can_be_named_in_a_file(in_files: Callable[[str], Settings]) -> None:
    in_files("plugins")
    code = "from service.optimizers import baselines; print(list(baselines())[-1])"
    done = subprocess.run([sys.executable, "-P", "-c", code], env=child_environment(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("rprop\n", "")


def test_a_loop_gets_the_allowed_modules_and_the_limit_that_are_in_files(
    tmp_path: Path, in_files: Callable[[str], Settings]
) -> None:
    in_files("allowed_modules")
    in_files("user_code_limit_s")
    entrypoint, settings = write_module(lambda make_optimizer, seed: iter(()), tmp_path)
    assert settings["WARPTUNE_ALLOWED_MODULES"] == f"models,{entrypoint.partition(':')[0]}"
    assert float(settings["WARPTUNE_USER_CODE_LIMIT_S"]) == 3e8
