# A job may notify the hosts that the operator allows, and no others.
from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError

from service.api.app import create_app
from service.db.session import Database
from service.ledger import outbox
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, refused, sqlite_only, succeed

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def notify(spec: SpecMaker, host: str) -> dict[str, object]:
    return spec(notify={"url": f"https://{host}/in"})


@sqlite_only
def test_no_host_is_allowed_by_default(client: TestClient, db: Database, spec: SpecMaker) -> None:
    [error] = refused(client, db, notify(spec, "hooks.example.org"))
    assert (error["field"], error["code"]) == ("notify.url", "not_allowed")
    assert error["message"] == (
        "names the host hooks.example.org, which is not allowed: the operator's setting WARPTUNE_NOTIFY_HOSTS is empty"
    )


@sqlite_only
@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("hooks.example.org", True),
        ("HOOKS.example.org:8443", True),
        ("a.b.example.net", True),
        ("example.net", False),
        ("hooks.example.org.evil.net", False),
        ("xhooks.example.org", False),
        ("169.254.169.254", False),
    ],
)
def test_the_operator_lists_the_hosts(
    settings: Settings, db: Database, spec: SpecMaker, host: str, is_allowed: bool
) -> None:
    names = {"notify_hosts": "hooks.example.org,*.Example.net", "notify_secret": SecretStr(SECRET)}
    with TestClient(create_app(settings.model_copy(update=names))) as client:
        if is_allowed:
            answer = client.post("/v1/jobs", json=notify(spec, host))
            assert answer.status_code == 202
            assert answer.json()["spec"]["notify"] == {"url": f"https://{host}/in"}
        else:
            [error] = refused(client, db, notify(spec, host))
            assert error["message"].endswith("allows only hooks.example.org,*.Example.net")


@sqlite_only
def test_the_message_of_a_job_that_has_succeeded_has_its_verdict(
    settings: Settings, db: Database, spec: SpecMaker
) -> None:
    names = {"notify_hosts": "hooks.example.org", "notify_secret": SecretStr(SECRET)}
    with TestClient(create_app(settings.model_copy(update=names))) as client:
        client.post("/v1/jobs", json=notify(spec, "hooks.example.org"))
        succeed(claim_job(db))
        job = client.get("/v1/jobs").json()["items"][0]["id"]
        result = client.get(f"/v1/jobs/{job}/recommendation").json()
    message = outbox.take(db, 60.0)
    assert message is not None
    assert message.data["state"] == "succeeded"
    assert (message.data["verdict"], message.data["reason"]) == (result["verdict"], result["reason"])


def test_hosts_need_a_secret() -> None:
    with pytest.raises(ValidationError, match="needs a secret in WARPTUNE_NOTIFY_SECRET"):
        Settings(notify_hosts="hooks.example.org")


def test_the_secret_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    key = Settings(notify_secret=SecretStr(SECRET)).notify_key
    monkeypatch.setenv("WARPTUNE_NOTIFY_SECRET_FILE", str(file))
    assert Settings(notify_hosts="hooks.example.org").notify_key == key


@pytest.mark.parametrize("hosts", ["*", "https://hooks.example.org", "a b"])
def test_what_is_no_list_of_hosts_is_refused(hosts: str) -> None:
    with pytest.raises(ValidationError, match="is not a host name"):
        Settings(notify_hosts=hosts, notify_secret=SecretStr(SECRET))
