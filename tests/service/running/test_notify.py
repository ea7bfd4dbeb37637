# A job's end is told to a real receiver: signed, repeated until it is taken, and never in the way of the job.
from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import update
from standardwebhooks import Webhook

from service.db.models import Event, Notification
from service.db.session import Database, epoch_now
from service.ledger import jobs, outbox
from service.ledger.runs import claim
from service.running.notify import Notifier, signed_headers
from service.settings import Settings
from service.spec.job import JobSpec
from service.states import JobState
from tests.conftest import SpecMaker
from tests.service.conftest import queue_job
from tests.service.test_takeover import wait_for

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver(ThreadingHTTPServer):
    """Keeps what it gets, and answers with ``statuses``, the last one for ever; the status 0 is no answer."""

    daemon_threads = True

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses, self.received = list(statuses), list[tuple[str, dict[str, str], bytes]]()
        self.done = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        statuses = self.server.statuses
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        self.server.received.append((self.path, {key.lower(): value for key, value in self.headers.items()}, content))
        if status == 0:
            self.server.done.wait(60)
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url.replace("/hook", "/elsewhere"))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Starts a receiver."""
    started: list[Receiver] = []

    def start(*statuses: int) -> Receiver:
        receiver = Receiver(*statuses)
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        started.append(receiver)
        return receiver

    yield start
    for receiver in started:
        receiver.done.set()
        receiver.shutdown()
        receiver.server_close()


@pytest.fixture
def allowing(settings: Settings) -> Settings:
    """Settings that allow the receiver."""
    changes = {"notify_hosts": "127.0.0.1", "notify_secret": SecretStr(SECRET), "public_url": "https://tune.example/"}
    return settings.model_copy(update=changes)


def end_job(db: Database, spec: SpecMaker, url: str, state: JobState = JobState.FAILED) -> str:
    queue_job(db, JobSpec.model_validate(spec(notify={"url": url})))
    log = claim(db, "a worker", 60.0)
    assert log is not None
    log.end(state, "no disk" if state == JobState.FAILED else None)
    return log.job_id


def told(db: Database, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the events that tell of notifications."""
    with db.read() as session:
        rows = session.query(Event).filter(Event.job_id == job_id).order_by(Event.id).all()
    return [(row.kind, row.data) for row in rows if row.kind.startswith("notification")]


def make_due(db: Database) -> None:
    """Let the pause before the next attempt be over."""
    with db.write() as session:
        session.execute(update(Notification).where(Notification.due_s.is_not(None)).values(due_s=epoch_now() - 1))


def test_the_signature_is_that_of_the_specifications_example() -> None:
    key = Settings(notify_secret=SecretStr(SECRET)).notify_key
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', key, 1614265330)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_is_told_of_a_failed_job_once_and_can_check_who_tells_it(
    db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver]
) -> None:
    receiver = receive(204)
    job_id = end_job(db, spec, receiver.url)
    notifier = Notifier(allowing, db)
    assert notifier.send_next()
    assert not notifier.send_next()
    [(path, headers, content)] = receiver.received
    body = Webhook(SECRET).verify(content, headers)
    assert (path, headers["content-type"]) == ("/hook", "application/json")
    assert body["type"] == "job.failed"
    assert body["data"] == {
        "job": job_id,
        "name": spec()["name"],
        "state": "failed",
        "cause": "no disk",
        "verdict": None,
        "reason": None,
        "link": f"https://tune.example/jobs/{job_id}",
    }
    assert told(db, job_id) == [("notification_sent", {"attempt": 1})]


def test_a_cancelled_job_is_told_of_and_one_without_notify_is_not(
    db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver]
) -> None:
    receiver = receive(200)
    for parts in ({}, {"notify": {"url": receiver.url}}):
        jobs.cancel(db, queue_job(db, JobSpec.model_validate(spec(**parts))))
    notifier = Notifier(allowing, db)
    while notifier.send_next():
        pass
    assert [json.loads(content)["type"] for _, _, content in receiver.received] == ["job.cancelled"]


def test_a_receiver_that_fails_twice_gets_the_same_message_three_times(
    db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver]
) -> None:
    receiver = receive(500, 302, 200)
    job_id = end_job(db, spec, receiver.url)
    notifier = Notifier(allowing, db, pauses_s=(70.0, 80.0, 90.0))
    for _ in range(3):
        assert notifier.send_next()
        assert not notifier.send_next()  # not before the pause is over
        make_due(db)
    assert not notifier.send_next()
    assert [path for path, _, _ in receiver.received] == ["/hook"] * 3  # the redirection is not followed
    assert len({headers["webhook-id"] for _, headers, _ in receiver.received}) == 1
    assert told(db, job_id) == [
        ("notification_failed", {"attempt": 1, "cause": "the receiver answered 500", "next_in_s": 70.0}),
        ("notification_failed", {"attempt": 2, "cause": "the receiver answered 302", "next_in_s": 80.0}),
        ("notification_sent", {"attempt": 3}),
    ]


def test_a_receiver_that_hangs_is_left_at_the_limit(
    db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver]
) -> None:
    receiver = receive(0)
    job_id = end_job(db, spec, receiver.url)
    assert Notifier(allowing, db, limit_s=0.5).send_next()
    [(kind, data)] = told(db, job_id)
    assert (kind, data["cause"], data["next_in_s"]) == ("notification_failed", "no answer within 0.5 seconds", 5.0)


@pytest.mark.parametrize("status", [410, 503])
def test_no_attempt_follows_the_last_one_or_a_receiver_that_is_gone(
    db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver], status: int
) -> None:
    job_id = end_job(db, spec, receive(status).url)
    notifier = Notifier(allowing, db, pauses_s=(1.0,) if status == 410 else ())
    assert notifier.send_next()
    make_due(db)
    assert not notifier.send_next()
    [(_, data)] = told(db, job_id)
    assert (data["cause"], data["next_in_s"]) == (f"the receiver answered {status}", None)


def test_a_message_of_a_killed_worker_is_sent_by_the_next(
    db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver]
) -> None:
    receiver = receive(200)
    job_id = end_job(db, spec, receiver.url)
    taken = outbox.take(db, 60.0)
    assert taken is not None  # the worker dies here
    notifier = Notifier(allowing, db)
    assert not notifier.send_next()
    make_due(db)
    assert notifier.send_next()
    assert receiver.received[0][1]["webhook-id"] == taken.id
    assert told(db, job_id) == [("notification_sent", {"attempt": 2})]


def test_nobody_listens(db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver]) -> None:
    receiver = receive(200)
    receiver.shutdown()
    receiver.server_close()
    job_id = end_job(db, spec, receiver.url)
    assert Notifier(allowing, db).send_next()
    [(kind, data)] = told(db, job_id)
    assert kind == "notification_failed"
    assert data["cause"].startswith("ConnectError")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9", "http://127.0.0.1:0x1"])
def test_a_proxy_that_cannot_be_used_ends_no_notifier(
    db: Database,
    allowing: Settings,
    spec: SpecMaker,
    receive: Callable[..., Receiver],
    monkeypatch: pytest.MonkeyPatch,
    proxy: str,
) -> None:
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    receiver = receive(200)
    with monkeypatch.context() as bad, Notifier(allowing, db, pauses_s=(300.0,)):
        bad.setenv("ALL_PROXY", proxy)
        job_id = end_job(db, spec, receiver.url)
        wait_for(lambda: len(told(db, job_id)) == 1)
        [(kind, data)] = told(db, job_id)
        assert (kind, data["next_in_s"]) == ("notification_failed", 300.0)
        assert data["cause"]
        bad.undo()
        make_due(db)
        wait_for(lambda: len(told(db, job_id)) == 2)
    assert told(db, job_id)[1] == ("notification_sent", {"attempt": 2})


def test_an_error_of_the_service_ends_no_notifier(
    db: Database,
    allowing: Settings,
    spec: SpecMaker,
    receive: Callable[..., Receiver],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take, calls = outbox.take, []

    def fail_once(*given: Any) -> Notification | None:
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("nobody has thought of this")
        return take(*given)

    monkeypatch.setattr(outbox, "take", fail_once)
    job_id = end_job(db, spec, receive(200).url)
    with Notifier(allowing, db):
        wait_for(lambda: bool(told(db, job_id)))
    assert told(db, job_id) == [("notification_sent", {"attempt": 1})]


def test_a_host_that_is_no_longer_allowed_gets_nothing(
    db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver]
) -> None:
    receiver = receive(200)
    job_id = end_job(db, spec, receiver.url)
    assert Notifier(allowing.model_copy(update={"notify_hosts": "*.example.org"}), db).send_next()
    assert receiver.received == []
    [(_, data)] = told(db, job_id)
    assert data["cause"].endswith("the operator's setting WARPTUNE_NOTIFY_HOSTS allows only *.example.org")


def test_a_deleted_job_is_told_of_no_more(
    db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver]
) -> None:
    receiver = receive(200)
    jobs.delete_row(db, end_job(db, spec, receiver.url))
    assert not Notifier(allowing, db).send_next()


def test_an_open_notifier_sends_by_itself_until_it_is_closed(
    db: Database, allowing: Settings, spec: SpecMaker, receive: Callable[..., Receiver]
) -> None:
    receiver = receive(200)
    with Notifier(allowing, db):
        job_id = end_job(db, spec, receiver.url)
        wait_for(lambda: bool(told(db, job_id)))
    assert told(db, job_id) == [("notification_sent", {"attempt": 1})]
