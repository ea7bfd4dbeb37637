# A page of another site must not reach the API through a browser: not by a name of its own, and not across sites.
from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from service.api.app import create_app
from service.settings import Settings
from tests.service.api.conftest import assert_problem

Connect = Callable[..., TestClient]
BODY = {"dataset": {"name": "wine"}, "model": {"name": "mlp"}}


@pytest.fixture
def connect(shared_settings: Settings) -> Iterator[Connect]:
    opened: list[TestClient] = []

    def make(allowed_hosts: str | None = None, host: str = "127.0.0.1") -> TestClient:
        settings = shared_settings.model_copy(update={"allowed_hosts": allowed_hosts, "host": host})
        opened.append(TestClient(create_app(settings), base_url="http://127.0.0.1:8000"))
        return opened[-1].__enter__()

    yield make
    for client in opened:
        client.__exit__()


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:8000", "a.localhost", "localhost.", "[::1]:8000", "192.168.0.7"]
)
def test_addresses_and_localhost_are_answered(connect: Connect, host: str) -> None:
    assert connect().get("/v1/jobs", headers={"Host": host}).status_code == 200


FOREIGN = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
    *("127.0.0.1@evil.example", "notlocalhost", "", "[", "[::1"),
]


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/v1/jobs", "/dashboard", "/api/studies", "/healthz", "/nothing"])
def test_a_foreign_name_is_refused_everywhere(connect: Connect, host: str, path: str) -> None:
    document = assert_problem(connect().get(path, headers={"Host": host}), 403, "forbidden")
    assert repr(host) in document["detail"]
    assert "WARPTUNE_ALLOWED_HOSTS" in document["detail"]


def test_a_long_name_is_not_repeated_as_a_whole(connect: Connect) -> None:
    for name, value in {"Host": "a" * 5000, "Origin": "http://" + "a" * 5000}.items():
        document = assert_problem(connect().post("/v1/jobs", headers={name: value}), 403, "forbidden")
        assert len(document["detail"]) < 400


@pytest.mark.parametrize(
    ("allowed", "listens_on", "host", "status"),
    [
        ("tune.example.org, b", "127.0.0.1", "TUNE.example.org:80", 200),
        ("tune.example.org, b", "127.0.0.1", "b", 200),
        ("tune.example.org", "127.0.0.1", "example.org", 403),
        ("*.example.org", "127.0.0.1", "a.b.example.org", 200),
        ("*.example.org", "127.0.0.1", "example.org", 403),
        ("tune.example.org", "0.0.0.0", "other.example.org", 403),
        ("*", "127.0.0.1", "evil.example", 200),
        (None, "0.0.0.0", "api", 401),  # the name is answered, and asked for a key
        (None, "::", "api", 401),
        (None, "localhost", "api", 403),
        (None, "::1", "api", 403),
        ("", "127.0.0.1", "api", 403),
    ],
)
def test_the_setting_decides_about_names(
    connect: Connect, allowed: str | None, listens_on: str, host: str, status: int
) -> None:
    hosts = Settings(allowed_hosts=allowed).allowed_hosts
    assert connect(hosts, listens_on).get("/v1/jobs", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "http://192.168.0.9", "null", "http://localhost:8000", "file://"),
        *("http://127.0.0.1:3000", "https://127.0.0.1:8000", "http://127.0.0.1", "http://127.0.0.1:x"),
    ],
)
def test_a_page_of_another_site_changes_nothing(connect: Connect, origin: str) -> None:
    client, headers = connect(), {"Origin": origin}
    document = assert_problem(client.post("/v1/jobs/job-x/cancel", headers=headers), 403, "forbidden")
    assert repr(origin) in document["detail"]
    assert_problem(client.post("/v1/datasets", params={"filename": "a.csv"}, headers=headers), 403, "forbidden")
    assert_problem(connect(None, "0.0.0.0").delete("/v1/jobs/job-x", headers=headers), 403, "forbidden")
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    assert_problem(connect("*").post("/v1/jobs/job-x/cancel", headers=headers), 403, "forbidden")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "https://tune.example.org", None])
def test_its_own_pages_and_what_is_no_browser_may_change_something(connect: Connect, origin: str | None) -> None:
    client = connect("tune.example.org")
    headers = {} if origin is None else {"Origin": origin}
    assert client.post("/v1/jobs", json=BODY, headers=headers).status_code == 202


def test_another_port_of_a_listed_name_is_another_site(connect: Connect) -> None:
    headers = {"Origin": "https://tune.example.org:9000"}
    assert_problem(connect("tune.example.org").post("/v1/jobs", json=BODY, headers=headers), 403, "forbidden")


@pytest.mark.parametrize("value", ["http://a", "a:80", "a,,b", "*a", "a.*", "a b", "ä.example"])
def test_a_setting_that_is_no_list_of_names_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="is not a host name"):
        Settings(allowed_hosts=value)
