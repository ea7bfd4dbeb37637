# A body that stalls is answered and forgotten; one that comes slowly but surely is taken.
from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.api import middleware
from service.ledger import audit
from tests.service.live import Live


def answer_to(live: Live, path: str, *pieces: bytes, announced: int) -> tuple[int, dict[str, object]]:
    """Send pieces of a body that was announced longer; return the status and the document of the answer."""
    address = urlsplit(live.url)
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {announced}\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"{head}\r\n".encode())
        for piece in pieces:
            connection.sendall(piece)
        with connection.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            length = 0
            while line := stream.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, json.loads(stream.read(length))


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets?filename=a.csv", "/v1/jobs/job-0/extend"])
def test_a_body_that_stalls_is_answered_with_408_and_leaves_nothing(
    live: Live, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str
) -> None:
    monkeypatch.setattr(middleware, "GRACE_S", 0.2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, problem = answer_to(live, path, b"x,y\n", announced=1000)
    assert (status, problem["code"]) == (408, "request_timeout")
    assert "4 bytes" in str(problem["detail"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets?filename=a.csv", "/v1/jobs/job-0/extend"])
@pytest.mark.parametrize(
    "head", ["Content-Length: 1000\r\n\r\na,b\n", "Transfer-Encoding: chunked\r\n\r\n4\r\na,b\n\r\n"]
)
def test_a_body_that_its_client_cuts_off_is_a_499_and_no_error(
    live: Live,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    path: str,
    head: str,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    caplog.set_level(logging.INFO)

    def audited() -> int:
        with live.db.read() as session:
            return len(audit.page(session, 1000, None, None, None))

    before = audited()
    address = urlsplit(live.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\n{head}".encode())
    while not (done := [record for record in caplog.records if record.message == "request"]):
        time.sleep(0.01)
    assert [vars(record)["status"] for record in done] == [499]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert list(tmp_path.iterdir()) == []
    assert audited() == before


@pytest.mark.parametrize(("piece", "taken"), [(60_000, 40), (59_000, 40), (1, 2)])
def test_a_body_has_a_minute_and_more_as_long_as_it_comes(
    monkeypatch: pytest.MonkeyPatch, piece: int, taken: int
) -> None:
    """Each piece takes 59 seconds."""
    seconds, received = [0.0], list[int]()
    monkeypatch.setattr(middleware, "monotonic", lambda: seconds[0])

    async def receive() -> Message:
        seconds[0] += 59.0
        return {"type": "http.request", "body": bytes(piece), "more_body": True}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(40):
            received.append(len((await receive())["body"]))

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(middleware.BodyDeadline(app)({"type": "http", "method": "POST"}, receive, send))
    assert received == [piece] * taken
    assert [message["status"] for message in sent[:1]] == ([] if taken == 40 else [408])


def test_a_read_with_a_body_that_stalls_holds_nobody_up(live: Live) -> None:
    """Whoever asks for the same meanwhile shares one answer with others, but does not wait for this body."""
    address = urlsplit(live.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"GET /v1/jobs HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 5\r\n\r\n".encode())
        time.sleep(0.5)  # the request is there, its body is not
        assert httpx2.get(f"{live.url}/v1/jobs", timeout=middleware.GRACE_S / 2).status_code == 200
