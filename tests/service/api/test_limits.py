# A body that is too large is refused before it is held in memory, whether or not its length was announced.
from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from service.api.middleware import BodyLimit
from service.db.session import Database
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, count_rows

LIMIT = 1 << 20


def padded(spec: SpecMaker, size: int) -> bytes:
    body = json.dumps(spec()).encode()
    return body + b" " * (size - len(body))


def chunks(body: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    yield from (body[start : start + size] for start in range(0, len(body), size))


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
def test_body_over_the_limit_is_refused(
    shared_client: TestClient, shared_db: Database, spec: SpecMaker, announced: bool
) -> None:
    before = count_rows(shared_db)
    body = padded(spec, LIMIT + 1)
    content = body if announced else chunks(body)
    response = shared_client.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert str(LIMIT) in assert_problem(response, 413, "body_too_large")["detail"]
    assert count_rows(shared_db) == before


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
def test_body_of_just_the_limit_is_taken(shared_client: TestClient, spec: SpecMaker, announced: bool) -> None:
    body = padded(spec, LIMIT)
    content = body if announced else chunks(body)
    response = shared_client.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 202


@pytest.mark.parametrize("path", ["/v1/jobs/job-0/cancel", "/healthz", "/dashboard", "/nothing"])
def test_every_path_has_the_limit(shared_client: TestClient, path: str) -> None:
    assert_problem(shared_client.post(path, content=b" " * (LIMIT + 1)), 413, "body_too_large")


class Caller:
    """Sends parts of a body to an ASGI application and keeps what comes back."""

    def __init__(self, *parts: Message) -> None:
        self.parts = list(parts)
        self.sent: list[Message] = []
        self.bodies: list[bytes] = []

    async def receive(self) -> Message:
        return self.parts.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append((await receive())["body"])
        assert (await receive())["type"] == "http.disconnect"

    def run(self, limit: int, kind: str = "http") -> None:
        scope = {"type": kind, "path": "/v1/jobs", "method": "POST"}
        asyncio.run(BodyLimit(self.app, limit)(scope, self.receive, self.send))


def part(body: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_endless_body_is_read_no_further_than_the_limit() -> None:
    caller = Caller(*(part(b"x" * 10) for _ in range(100)))
    caller.run(limit=25)
    assert len(caller.parts) == 97
    assert caller.bodies == []
    assert caller.sent[0]["status"] == 413


def test_parts_arrive_as_one_body() -> None:
    caller = Caller(part(b"ab"), part(b""), part(b"c", more=False), {"type": "http.disconnect"})
    caller.run(limit=3)
    assert caller.bodies == [b"abc"]


def test_client_that_goes_away_is_let_go() -> None:
    caller = Caller(part(b"ab"), {"type": "http.disconnect"})
    caller.run(limit=3)
    assert (caller.bodies, caller.sent) == ([], [])


def test_what_is_no_request_passes_through() -> None:
    caller = Caller({"type": "websocket.connect", "body": b"long enough"}, {"type": "http.disconnect"})
    caller.run(limit=3, kind="websocket")
    assert caller.bodies == [b"long enough"]
