# Settings from files, as secrets are passed.
from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings

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
