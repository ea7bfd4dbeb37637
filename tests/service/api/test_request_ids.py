# One id leads from an answer to every log line of its request, and of the job that it queued.
from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pythonjsonlogger.json import JsonFormatter

from service.db.session import Database
from service.engines.base import default_train
from service.ledger import keys
from service.ledger.jobs import require_job
from service.ledger.keys import Scope
from service.logs import FactsFilter
from service.states import JobState
from tests.conftest import SpecMaker
from tests.service.api.conftest import Submit, assert_problem, claim_job, sqlite_only, succeed
from tests.service.conftest import WorkerMaker

GIVEN = "trace.1-a_b~C"


class Log:
    """What this process logs, as the command line sets it up with the format json."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self.handler = logging.StreamHandler(self._text)
        self.handler.setFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s"))
        self.handler.addFilter(FactsFilter())

    def lines(self, **wanted: object) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self._text.getvalue().splitlines()]
        return [line for line in found if wanted.items() <= line.items()]


@pytest.fixture
def log() -> Iterator[Log]:
    made, root = Log(), logging.getLogger()
    before = root.level
    root.addHandler(made.handler)
    root.setLevel("INFO")
    yield made
    root.removeHandler(made.handler)
    root.setLevel(before)


@sqlite_only
def test_a_well_formed_id_is_kept_and_any_other_replaced(client: TestClient) -> None:
    for path in ("/healthz", "/", "/v1/jobs", "/nothing", "/assets/page.css"):
        assert client.get(path, headers={"X-Request-ID": GIVEN}).headers["x-request-id"] == GIVEN
    made = set()
    for given in ("", "two words", "x" * 65, "line\u2028", "a;b", None):
        headers = [] if given is None else [(b"X-Request-ID", given.encode())]
        found = client.get("/healthz", headers=headers).headers.get_list("x-request-id")
        assert len(found) == 1
        assert re.fullmatch(r"[0-9a-f]{32}", found[0])
        made.add(found[0])
    assert len(made) == 6


@sqlite_only
def test_problems_of_every_layer_have_it(client: TestClient, db: Database) -> None:
    def bug() -> None:
        raise RuntimeError("a bug")

    client.app.get("/v1/bug")(bug)  # type: ignore[attr-defined]

    def ask(method: str, path: str, **headers: str) -> Any:
        return client.request(method, path, json={}, headers={"X-Request-ID": GIVEN, **headers})

    answers = {
        403: ask("GET", "/v1/jobs", Host="evil.example"),  # before the check of keys
        404: ask("GET", "/v1/jobs/job-1"),
        405: ask("PUT", "/v1/jobs"),
        422: ask("POST", "/v1/jobs"),
        500: ask("GET", "/v1/bug"),
    }
    keys.create(db, "vision", Scope.READ)
    answers[401] = ask("GET", "/v1/jobs")
    for status, answer in answers.items():
        document = assert_problem(answer, status, answer.json()["code"])
        assert document["request_id"] == GIVEN


@sqlite_only
def test_every_request_is_a_line_with_who_sent_it(client: TestClient, db: Database, log: Log, submit: Submit) -> None:
    answer = client.get("/v1/jobs/job-1%0Aforged?state=secret")
    (line,) = log.lines(message="request", request_id=answer.headers["x-request-id"])
    assert line["path"] == "/v1/jobs/job-1\nforged"
    assert (line["method"], line["status"], line["client"], line["project"]) == ("GET", 404, "127.0.0.1", "local")
    assert line["ms"] > 0
    assert "key" not in line
    client.get("/healthz")
    assert not log.lines(message="request", path="/healthz")
    key, row = keys.create(db, "vision", Scope.READ)
    client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"})
    (line,) = log.lines(message="request", path="/v1/jobs")
    assert (line["project"], line["key"], line["status"]) == ("vision", row.id, 200)
    client.get("/v1/jobs")
    refused = log.lines(message="refused")
    assert [line["request_id"] for line in log.lines(status=401)] == [line["request_id"] for line in refused]
    assert key not in json.dumps(log.lines())


@sqlite_only
def test_lines_of_a_request_do_not_have_the_id_of_another_one(client: TestClient, log: Log) -> None:
    for given in ("first", "second", "third"):
        client.get("/v1/jobs/job-1", headers={"X-Request-ID": given})
    logging.getLogger("service").info("between requests")
    assert [line["request_id"] for line in log.lines(message="request")] == ["first", "second", "third"]
    assert "request_id" not in log.lines(message="between requests")[0]


def test_a_job_keeps_the_id_of_the_request_that_queued_it_last(
    client: TestClient, db: Database, spec: SpecMaker
) -> None:
    def stored() -> str | None:
        with db.read() as session:
            return require_job(session, job_id).request_id

    job_id = client.post("/v1/jobs", json=spec(), headers={"X-Request-ID": "submitted"}).json()["id"]
    assert stored() == "submitted"
    record = claim_job(db)
    assert record.request_id == "submitted"
    succeed(record)
    client.post(f"/v1/jobs/{job_id}/extend", json={"seeds": 1}, headers={"X-Request-ID": "extended"})
    assert stored() == "extended"
    claim_job(db).end(JobState.FAILED, "why")
    client.post(f"/v1/jobs/{job_id}/retry", headers={"X-Request-ID": "retried"})
    assert stored() == "retried"
    client.post(f"/v1/jobs/{job_id}/retry", headers={"X-Request-ID": "retried-again"})
    assert stored() == "retried", "it was queued already"


@sqlite_only
def test_lines_of_the_worker_and_its_slots_have_it_too(
    client: TestClient,
    db: Database,
    spec: SpecMaker,
    make_worker: WorkerMaker,
    log: Log,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WARPTUNE_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("WARPTUNE_LOG_FORMAT", "json")
    body = spec(budget={"trials_per_arm": 1, "steps": 5}, confirm={"seeds": 6})
    job_id = client.post("/v1/jobs", json=body, headers={"X-Request-ID": GIVEN}).json()["id"]
    assert make_worker(default_train).run_next()
    with db.read() as session:
        assert require_job(session, job_id).state == JobState.SUCCEEDED
    mine = log.lines(job=job_id, request_id=GIVEN)
    assert {"job claimed", "job succeeded"} <= {line["message"] for line in mine}
    slots = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    ended = [line for line in slots if line["message"] == "run ended"]
    assert {(line["job"], line["request_id"]) for line in ended} == {(job_id, GIVEN)}
    assert {line["trial"] for line in ended} == {0, 1, 2}
    assert len({(line["trial"], line.get("seed")) for line in ended}) == len(ended)
