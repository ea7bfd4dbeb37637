# Requests that come too fast are answered with 429, and the time after which they are welcome again.
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from service.api.access import cookie_name
from service.api.app import create_app
from service.api.rate_limits import FORGET_EVERY_S, Counts, RateLimits
from service.db.session import Database
from service.ledger import keys
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, count_rows, sqlite_only

Serve = Callable[..., TestClient]


@pytest.fixture
def serve(settings: Settings, db: Database) -> Iterator[Serve]:
    """Starts an API with some limits."""
    with ExitStack() as opened:

        def start(**limits: str) -> TestClient:
            limited = settings.model_copy(update={"read_rate": "off", "write_rate": "off", **limits})
            return opened.enter_context(TestClient(create_app(limited), raise_server_exceptions=False))

        yield start


def make_key(db: Database, scope: keys.Scope = keys.Scope.SUBMIT) -> dict[str, str]:
    return {"Authorization": f"Bearer {keys.create(db, 'vision', scope)[0]}"}


def assert_limited(response: Any, setting: str) -> None:
    problem = assert_problem(response, 429, "rate_limited")
    assert setting in problem["detail"]
    assert 1 <= int(response.headers["Retry-After"]) <= 3600


@sqlite_only
def test_each_key_has_its_own_limit_on_reads(serve: Serve, db: Database) -> None:
    client, first, second = serve(read_rate="5/hour"), make_key(db), make_key(db)
    assert {client.get("/v1/jobs", headers=first).status_code for _ in range(5)} == {200}
    assert_limited(client.get("/v1/jobs", headers=first), "WARPTUNE_READ_RATE allows 5 per 1 hour")
    assert client.get("/v1/jobs", headers=second).status_code == 200


@sqlite_only
def test_writes_are_counted_apart_and_one_too_many_does_nothing(serve: Serve, db: Database, spec: SpecMaker) -> None:
    client, key = serve(read_rate="9/hour", write_rate="2/hour"), make_key(db)
    assert {client.post("/v1/jobs", json=spec(), headers=key).status_code for _ in range(2)} == {202}
    assert_limited(client.post("/v1/jobs", json=spec(), headers=key), "WARPTUNE_WRITE_RATE")
    assert count_rows(db)["jobs"] == 2
    assert client.get("/v1/jobs", headers=key).status_code == 200


@sqlite_only
def test_a_request_is_welcome_after_the_seconds_that_it_was_told(serve: Serve, db: Database) -> None:
    client, key = serve(read_rate="2/second"), make_key(db)
    deadline = time.monotonic() + 30.0
    refused = None
    while refused is None:
        assert time.monotonic() < deadline
        answer = client.get("/v1/jobs", headers=key)
        refused = answer if answer.status_code == 429 else None
    time.sleep(int(refused.headers["Retry-After"]) + 1.0)
    assert client.get("/v1/jobs", headers=key).status_code == 200


@sqlite_only
def test_without_keys_nothing_is_counted(serve: Serve, spec: SpecMaker) -> None:
    client = serve(read_rate="1/hour", write_rate="1/hour")
    assert {client.post("/v1/jobs", json=spec()).status_code for _ in range(3)} == {202}
    assert {client.get("/v1/jobs").status_code for _ in range(3)} == {200}


@sqlite_only
def test_whoever_started_a_private_service_is_not_counted(serve: Serve, db: Database) -> None:
    client = serve(read_rate="1/hour")
    make_key(db)
    client.app.state.private_key = b"private"  # type: ignore[attr-defined]
    assert {client.get("/v1/jobs", headers={"Authorization": "Bearer private"}).status_code for _ in range(3)} == {200}


@sqlite_only
def test_looking_whether_the_service_lives_is_never_refused(serve: Serve, db: Database) -> None:
    client = serve(read_rate="1/hour")
    make_key(db)
    assert {client.get(path).status_code for path in ("/healthz", "/readyz") for _ in range(3)} == {200}
    assert client.get("/docs").status_code == 200
    assert_limited(client.get("/docs"), "WARPTUNE_READ_RATE")  # open, but counted by address


@sqlite_only
def test_wrong_keys_are_soon_refused_unread_and_right_ones_are_not(serve: Serve, db: Database) -> None:
    client, right = serve(sign_in_rate="3/hour"), make_key(db)
    wrong = {"Authorization": right["Authorization"][:-4] + "0000"}
    assert [client.get("/v1/jobs", headers=wrong).status_code for _ in range(3)] == [401] * 3
    assert_limited(client.get("/v1/jobs", headers=wrong), "WARPTUNE_SIGN_IN_RATE")
    assert client.get("/v1/jobs", headers=right).status_code == 200
    assert client.post("/sign-in", data={"key": "wt_x"}).status_code == 401  # people at the same address may try


@sqlite_only
def test_the_form_with_a_key_is_limited_by_address(serve: Serve, db: Database) -> None:
    client = serve(sign_in_rate="2/hour", write_rate="1/hour")
    make_key(db)
    assert [client.post("/sign-in", data={"key": "wt_x"}).status_code for _ in range(2)] == [401, 401]
    assert_limited(client.post("/sign-in", data={"key": "wt_x"}), "WARPTUNE_SIGN_IN_RATE")


@sqlite_only
def test_a_browser_with_an_old_cookie_can_still_sign_in(serve: Serve, db: Database) -> None:
    client = serve(sign_in_rate="1/hour", read_rate="100/hour")
    key = make_key(db)["Authorization"].removeprefix("Bearer ")
    client.cookies.set(cookie_name(db), "old")
    assert {client.get("/v1/jobs").status_code for _ in range(5)} == {401}
    assert client.post("/sign-in", data={"key": key}, follow_redirects=False).status_code == 303


@pytest.mark.parametrize("rate", ["", "0/minute", "10", "10/fortnight", "many", "-1/second"])
def test_a_rate_that_is_none_is_not_a_setting(rate: str) -> None:
    with pytest.raises(ValueError, match=r"read_rate\s.*such as 300/minute, or off"):
        Settings(read_rate=rate)


def test_counting_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = RateLimits(Settings(read_rate="1000/minute"))
    time.sleep(0.1)  # the library starts one when it is set up
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    scope = {"type": "http", "method": "GET", "path": "/v1/jobs", "headers": [], "client": ("127.0.0.1", 1)}
    for number in range(100):
        access = keys.Access("vision", keys.Scope.READ, f"key{number % 10}")
        rates.count(Request(scope), access, signs_in=False)
    assert started == []


def test_counts_that_are_over_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, begin = Counts(), time.time()
    for number in range(1000):
        counts.incr(f"sender {number}", 60.0)
    assert counts.incr("sender 0", 60.0) == 2
    monkeypatch.setattr(time, "time", lambda: begin + 61.0 + FORGET_EVERY_S)
    assert counts.incr("sender 0", 60.0) == 1
    assert set(counts.storage) == set(counts.expirations) == {"sender 0"}
