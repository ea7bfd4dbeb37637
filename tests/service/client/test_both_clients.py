# The client for asyncio does what the other one does, and both follow a job through cut streams and restarts.
from __future__ import annotations

import asyncio
import inspect
import json
import socket
import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from service.client import calls
from service.client.async_rest import AsyncClient
from service.client.rest import ApiError, Client
from service.client.stream import EventStream
from service.ledger import keys
from service.states import JobState, TrialState
from service.training.run import Ended
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, search, succeed
from tests.service.data import files
from tests.service.live import Live, serve


class Blocking:
    """A client for asyncio that is used like the other one."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            made = value(*arguments, **options)
            return self._items(made) if isinstance(made, AsyncIterator) else self._runner.run(made)

        return call if callable(value) else value

    def _items(self, made: AsyncIterator[Any]) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(made, None)

        while (item := self._runner.run(following())) is not None:
            yield item


Connect = Callable[..., Any]


@pytest.fixture(params=(Client, Blocking), ids=["client", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """The class of a client."""
    made: Connect = request.param
    return made


def test_both_have_the_same_methods_and_parameters() -> None:
    one, other = (
        {
            name: list(inspect.signature(method).parameters.items())
            for name, method in vars(kind).items()
            if callable(method) and not name.startswith("_")
        }
        for kind in (Client, AsyncClient)
    )
    assert one == other
    assert len(one) > 20


def test_a_job_from_its_data_to_its_result(connect: Connect, live: Live, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_bytes(files.csv(60))
    with connect(live.url) as client:
        assert client.is_up()
        dataset, _ = client.upload(tmp_path / "people.csv")
        assert client.upload(tmp_path / "people.csv") == (dataset, False)
        assert client.dataset(dataset["id"]) == dataset
        spec = {"tags": ["t"], "dataset": {"name": "wine"}, "model": {"name": "mlp"}}
        job = client.submit(spec, idempotency_key=f"{connect.__name__}-key")["id"]
        assert client.submit(spec, idempotency_key=f"{connect.__name__}-key")["id"] == job
        succeed(claim_job(live.db))
        assert client.wait(job)["state"] == "succeeded"
        assert next(iter(client.jobs(tags=["t"])))["id"] == job
        assert client.recommendation(job).verdict == "helps"
        assert client.export(job, "python").startswith(b'"""Recommended')
        assert {trial["number"] for trial in client.trials(job)} == set(range(5))
        assert client.trial(job, 4)["arm"] == "adamw_default"
        assert list(client.follow(job)) == list(client.events(job))
        assert client.extend(job, {"seeds": 1})["state"] == "queued"
        assert client.pause(job)["state"] == "paused"
        assert client.resume(job)["state"] == "queued"
        assert client.stop(job)["stop_requested"]
        assert client.cancel(job)["state"] == "cancelled"
        client.delete(job)
        with pytest.raises(ApiError, match=f"there is no job '{job}'") as caught:
            client.job(job)
        assert caught.value.status == 404


def test_what_goes_wrong_is_the_same_error(connect: Connect, live: Live, tmp_path: Path) -> None:
    with connect(live.url) as client:
        with pytest.raises(ApiError, match=r"budget.step: is not a known field"):
            client.submit({"dataset": {"name": "wine"}, "model": {"name": "mlp"}, "budget": {"step": 3}})
        for call in (client.watch, client.follow, client.events):
            with pytest.raises(ApiError, match="there is no job 'job-0'"):
                list(call("job-0"))
        with pytest.raises(FileNotFoundError):
            client.upload(tmp_path / "none.csv")
    with connect("http://127.0.0.1:1", retry_s=0) as nobody:
        assert not nobody.is_up()
        with pytest.raises(ApiError, match=r"cannot reach http://127\.0\.0\.1:1"):
            nobody.job("job-0")


def test_a_client_that_sends_too_fast_is_served_in_the_end(connect: Connect, tmp_path: Path) -> None:
    with serve(tmp_path, read_rate="4/second") as running:
        key, _ = keys.create(running.db, "vision", keys.Scope.READ)
        with connect(running.url, api_key=key) as client:
            assert [list(client.jobs()) for _ in range(12)] == [[]] * 12
        with connect(running.url, api_key=key, retry_s=0) as impatient, pytest.raises(ApiError) as caught:
            [list(impatient.jobs()) for _ in range(100)]
        assert (caught.value.status, caught.value.retry_after_s) == (429, 1.0)
        assert "WARPTUNE_READ_RATE allows 4 per 1 second" in str(caught.value)


class Cutter(socketserver.ThreadingTCPServer):
    """Passes connections on to a service, and cuts every stream of events after some bytes of it."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.target = ("127.0.0.1", int(url.rpartition(":")[2]))
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.cuts = 0


class Passing(socketserver.BaseRequestHandler):
    server: Cutter

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as service:
            while asked := self.request.recv(65536):
                service.sendall(asked)
                left = 600 + 97 * (self.server.cuts % 5)
                while piece := service.recv(65536):
                    self.request.sendall(piece[:left])
                    left -= len(piece)
                    if left <= 0:
                        self.server.cuts += 1
                        return
                    if piece.endswith(b"0\r\n\r\n") or b" 204 " in piece[:20]:
                        break  # the answer is complete


@pytest.fixture
def cutter(live: Live) -> Iterator[Cutter]:
    server = Cutter(live.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hundred_cut_streams_miss_no_event_and_repeat_none(
    connect: Connect, live: Live, cutter: Cutter, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.calls.WAITS_S", (0.001, 0.002))
    with Client(live.url) as direct:
        job = direct.submit(spec())["id"]
        log = claim_job(live.db)
        for number in range(360):
            trial = log.add_trial("warpadam", {}, running=True)
            log.finish_trial(trial.id, Ended(TrialState.COMPLETE, 1.0 + number, 1.0), 0.0)
        log.end(JobState.FAILED, "enough")
        everything = list(direct.events(job))
    with connect(cutter.url) as client:
        assert list(client.follow(job)) == everything
        assert cutter.cuts >= 100
        half = everything[100]["id"]
        assert list(client.follow(job, after=half)) == everything[101:]


def test_a_service_that_restarts_while_a_job_is_waited_for_is_no_error(
    connect: Connect, spec: SpecMaker, tmp_path: Path
) -> None:
    states: list[str] = []
    watches = threading.Event()
    with serve(tmp_path) as first:
        url = first.url
        with Client(url) as direct:
            job = direct.submit(spec())["id"]

        def watch() -> None:
            with connect(url) as client:
                for shown in client.watch(job):
                    states.append(shown["state"])
                    watches.set()

        thread = threading.Thread(target=watch)
        thread.start()
        assert watches.wait(60)
        log = claim_job(first.db)
        search(log)
    with serve(tmp_path, int(url.rpartition(":")[2])):
        log.end(JobState.FAILED, "enough")
        thread.join()
    assert states[-1] == "failed"


class Overtaken(BaseHTTPRequestHandler):
    """A service whose job was queued again whenever its stream had ended, but not the third time."""

    streams = 0

    def do_GET(self) -> None:
        is_stream = self.path.endswith("/events")
        type(self).streams += is_stream
        state = "queued" if self.streams < 3 else "failed"
        body = b"" if is_stream else json.dumps({"id": "job-1", "state": state}).encode()
        self.send_response(204 if is_stream else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_job_that_is_queued_again_when_its_stream_has_ended_is_watched_on(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Overtaken, "streams", 0)
    pauses: list[float] = []
    pause = EventStream.pause

    def noted(*given: Any) -> float:
        pauses.append(pause(*given))
        return pauses[-1]

    monkeypatch.setattr(EventStream, "pause", noted)
    states: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Overtaken)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def watch() -> None:
        with connect(f"http://127.0.0.1:{server.server_address[1]}", api_key="") as client:
            states.extend(job["state"] for job in client.watch("job-1"))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    watching.join(60)
    server.shutdown()
    server.server_close()
    assert states == ["queued", "queued", "failed"]
    assert pauses == [calls.WAITS_S[0], 2 * calls.WAITS_S[0]]


def test_both_send_the_key_of_the_environment_or_the_one_that_they_are_given(
    connect: Connect, tmp_path: Path, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path) as live:
        key, row = keys.create(live.db, "vision", keys.Scope.SUBMIT)
        with connect(live.url) as client, pytest.raises(ApiError, match="WARPTUNE_API_KEY") as caught:
            client.submit(spec())
        assert caught.value.status == 401
        with connect(live.url, api_key=key) as client:
            job = client.submit(spec())
            assert job["owner"] == "vision"
        monkeypatch.setenv("WARPTUNE_API_KEY", key)
        with connect(live.url) as client:
            assert [job["state"] for job in client.jobs()] == ["queued"]
            client.cancel(job["id"])
            assert client.wait(job["id"])["state"] == "cancelled", "the stream of events has the key too"
        keys.revoke(live.db, row.id)
        with connect(live.url) as client, pytest.raises(ApiError, match="is revoked"):
            client.wait(job["id"])
    with pytest.raises(ApiError, match="must be one word") as caught:
        connect(live.url, api_key="wt_ secret")
    assert "secret" not in str(caught.value)


class Proxy(BaseHTTPRequestHandler):
    """A proxy that answers itself, and tells what it was asked for."""

    def do_GET(self) -> None:
        body = json.dumps({"asked": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment with a proxy for everything."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_address[1]}")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_no_proxy_sees_what_is_sent_to_this_machine(connect: Connect, live: Live, proxied: None, host: str) -> None:
    with connect(live.url.replace("127.0.0.1", host)) as client:
        assert client.catalog()["models"]


def test_other_machines_are_reached_through_the_proxy_of_the_environment(connect: Connect, proxied: None) -> None:
    with connect("http://tune.invalid") as client:
        assert client.catalog() == {"asked": "http://tune.invalid/v1/catalog"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "Using SOCKS proxy.*; look at HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"),
        ("HTTPS_PROXY", "foo://127.0.0.1:9", "Unknown scheme for proxy.*; look at HTTP_PROXY, HTTPS_PROXY"),
        ("SSL_CERT_FILE", "/no/such/file", "No such file or directory; look at SSL_CERT_FILE and SSL_CERT_DIR"),
        ("SSL_CERT_FILE", __file__, ".*; look at SSL_CERT_FILE and SSL_CERT_DIR"),
    ],
)
def test_an_environment_that_allows_no_connection_is_named(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ApiError, match=f"cannot reach https://tune.invalid: {message}") as caught:
        connect("https://tune.invalid").__enter__()
    assert caught.value.__cause__ is None  # or the command line would advise to start a service


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.8.0.1", True),
        ("https://[::1]:8000", True),
        ("https://user:word@localhost/prefix", True),
        ("http://localhost.example.org", False),
        ("http://10.0.0.1", False),
        ("http://[2001:db8::1]", False),
        ("http://example.org/127.0.0.1", False),
    ],
)
def test_which_urls_lead_to_this_machine(url: str, here: bool) -> None:
    assert calls.is_here(url) == here


class Forgetful(BaseHTTPRequestHandler):
    """A service whose first answer is lost."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(self.path)
        if len(self.asked) > 1:
            self.send_response(202)
            body = json.dumps({"id": "job-1", "arms": []}).encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_DELETE = do_POST  # noqa: N815 - the name is http.server's

    def log_message(self, *_: object) -> None:
        """Say nothing."""


REPEATED: dict[str, list[Any]] = {
    "submit": [{}],
    "estimate": [{}],
    "extend": ["job-1", {"seeds": 1}],
    "retry": ["job-1"],
    "cancel": ["job-1"],
    "stop": ["job-1"],
    "pause": ["job-1"],
    "resume": ["job-1"],
}


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a service whose first answer is lost."""
    monkeypatch.setattr(Forgetful, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Forgetful)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("method", REPEATED)
def test_what_has_no_second_effect_is_sent_again_when_its_answer_was_lost(
    connect: Connect, forgetful: str, method: str
) -> None:
    with connect(forgetful) as client:
        assert getattr(client, method)(*REPEATED[method])["id"] == "job-1"
    assert len(Forgetful.asked) == 2


def test_a_deletion_is_not_sent_again_when_its_answer_was_lost(connect: Connect, forgetful: str) -> None:
    with connect(forgetful) as client, pytest.raises(ApiError, match="cannot reach"):
        client.delete("job-1")
    assert len(Forgetful.asked) == 1
