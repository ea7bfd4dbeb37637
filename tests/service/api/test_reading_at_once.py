# While files are read: other requests are answered, uploads wait for their turn, and one whose client goes away ends.
from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from service.data.reader import Readers, Stop
from service.data.upload import read_file
from service.errors import UnavailableError
from service.processes import MAX_WAITING
from tests.conftest import SpecMaker
from tests.service.data import files
from tests.service.live import Live

UPLOADS = 45
"""More than the API has threads for requests."""


class Held:
    """Readers that begin, and read only once they are released."""

    def __init__(self) -> None:
        self.begun = self.at_once = self.given_up = 0
        self.released, self._lock, self._running = threading.Event(), threading.Lock(), 0

    def read(self, readers: Readers, *arguments: Any, stop: Stop) -> Any:
        with self._lock:
            self.begun += 1
            self._running += 1
            self.at_once = max(self.at_once, self._running)
        try:
            while not self.released.wait(0.01):
                if stop():
                    self.given_up += 1
                    raise UnavailableError("the client has gone")
            return read_file(*arguments)
        finally:
            with self._lock:
                self._running -= 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Held]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    readers = Held()
    monkeypatch.setattr(Readers, "read", lambda *arguments, stop: readers.read(*arguments, stop=stop))
    yield readers
    readers.released.set()


def wait_until(is_true: Any) -> None:
    while not is_true():
        time.sleep(0.01)


def upload(live: Live, number: int) -> int:
    content = files.csv() + b"\n1,Rome,x,yes" * number
    return httpx.post(f"{live.url}/v1/datasets?filename=a.csv", content=content, timeout=100).status_code


def test_files_that_wait_for_a_reader_take_no_thread_of_other_requests(live: Live, held: Held) -> None:
    with ThreadPoolExecutor(UPLOADS) as threads:
        statuses = [threads.submit(upload, live, number) for number in range(UPLOADS)]
        wait_until(lambda: held.begun == 2)
        for path in ("/healthz", "/v1/jobs", "/v1/datasets", "/readyz"):
            assert httpx.get(f"{live.url}{path}", timeout=100).status_code == 200
        assert not any(status.done() for status in statuses)
        held.released.set()
        assert {status.result() for status in statuses} == {201}
    assert (held.begun, held.at_once) == (UPLOADS, 2)


@pytest.mark.timeout(60)
def test_files_of_an_upload_are_deleted_while_others_are_answered(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    deleting, answered, delete = threading.Event(), threading.Event(), shutil.rmtree

    def delete_late(*arguments: Any) -> None:
        deleting.set()
        assert answered.wait(30), "nobody is answered while gigabytes are deleted"
        delete(*arguments)

    monkeypatch.setattr(shutil, "rmtree", delete_late)
    with ThreadPoolExecutor(1) as threads:
        status = threads.submit(upload, live, UPLOADS)  # its content is that of no other test
        deleting.wait()
        assert httpx.get(f"{live.url}/healthz", timeout=20).status_code == 200
        answered.set()
        assert status.result() == 201


def test_an_upload_whose_client_goes_away_ends_and_leaves_nothing(
    live: Live, held: Held, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    address, content = urlsplit(live.url), files.csv() + b"\n2,Oslo,y,no"
    head = f"POST /v1/datasets?filename=gone.csv HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(content)}"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + content)
        wait_until(lambda: held.begun == 1)
    wait_until(lambda: held.given_up == 1)
    wait_until(lambda: not list(tmp_path.iterdir()))
    wait_until(lambda: [record for record in caplog.records if record.message == "request"])
    assert [vars(record)["status"] for record in caplog.records if record.message == "request"] == [499]
    assert "gone.csv" not in httpx.get(f"{live.url}/v1/datasets").text


def test_dry_runs_that_wait_take_no_thread_of_other_requests(
    live: Live, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, begun = threading.Event(), threading.Event()

    def measure(*arguments: Any, **options: Any) -> Any:
        begun.set()
        released.wait()
        raise subprocess.TimeoutExpired("footprint", 60)

    def dry_run(_: int) -> httpx.Response:
        return httpx.post(f"{live.url}/v1/jobs?dry_run=true", json=spec(), timeout=100)

    monkeypatch.setattr(subprocess.Popen, "communicate", measure)
    with ThreadPoolExecutor(UPLOADS) as threads:
        answers = [threads.submit(dry_run, number) for number in range(UPLOADS)]
        try:
            begun.wait()
            wait_until(lambda: sum(answer.done() for answer in answers) == UPLOADS - MAX_WAITING - 1)
            for path in ("/healthz", "/v1/jobs", "/v1/datasets", "/readyz"):
                assert httpx.get(f"{live.url}{path}", timeout=100).status_code == 200
        finally:
            released.set()
    refused = [answer.result() for answer in answers]
    assert {answer.status_code for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) for answer in refused)
    assert sum("8 other requests wait: other jobs were timed" in answer.text for answer in refused) == 36
