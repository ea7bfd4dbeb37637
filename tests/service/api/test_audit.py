# Every change and every refusal leaves a line: who, from where, what, and how it was answered. No secret is in it.
from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from service.api import audit as layer
from service.db.models import AuditLine
from service.db.session import Database
from service.ledger import audit, keys
from tests.conftest import SpecMaker
from tests.service.api.conftest import Submit, assert_problem, pages, sqlite_only


def lines(client: TestClient, **options: Any) -> list[dict[str, Any]]:
    """Return the lines, the oldest first."""
    answer = client.get("/v1/audit", **options)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found[::-1]


def test_a_change_is_written_down_before_it_is_answered(client: TestClient, spec: SpecMaker, db: Database) -> None:
    made = client.post("/v1/jobs", json=spec(), headers={"X-Request-ID": "abc-1"})
    job = made.headers["location"]
    client.post(f"{job}/cancel")
    client.delete(job)
    client.post("/v1/jobs", json={"dataset": {}})
    found = lines(client)
    assert [(row["operation"], row["method"], row["target"], row["status"]) for row in found] == [
        ("submit_job", "POST", job, 202),
        ("cancel_job", "POST", f"{job}/cancel", 202),
        ("remove_job", "DELETE", job, 204),
        ("submit_job", "POST", "/v1/jobs", 422),
    ]
    assert {(row["who"], row["project"], row["address"]) for row in found} == {("local", "local", "127.0.0.1")}
    assert found[0]["request_id"] == "abc-1"
    at = datetime.fromisoformat(found[0]["at"])
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)


@pytest.mark.parametrize(("sent", "stored"), [("%00", "\\x00"), ("%00" * 100, "\\x00" * 46)])
def test_a_path_that_cannot_be_stored_as_it_is_leaves_a_line_too(client: TestClient, sent: str, stored: str) -> None:
    assert client.post(f"/v1/jobs/job-{sent}/cancel").status_code == 422
    (line,) = lines(client)
    assert line["target"].startswith(f"/v1/jobs/job-{stored}")
    assert len(line["target"]) <= 200


@sqlite_only
def test_reading_leaves_no_line(client: TestClient, submit: Submit) -> None:
    job = submit()["links"]["self"]
    for path in (job, "/v1/jobs", "/", "/healthz", f"{job}/trials", "/v1/jobs/job-0"):
        client.get(path)
    assert len(lines(client)) == 1


def test_who_did_it_and_who_was_refused(client: TestClient, db: Database, spec: SpecMaker) -> None:
    made = {
        name: keys.create(db, project, scope)
        for name, project, scope in (
            ("submit", "vision", keys.Scope.SUBMIT),
            ("read", "vision", keys.Scope.READ),
            ("admin", "ops", keys.Scope.ADMIN),
        )
    }
    sent = {name: {"Authorization": f"Bearer {key}"} for name, (key, _) in made.items()}
    client.post("/v1/jobs", json=spec(), headers=sent["submit"])
    for _ in range(3):
        client.post("/v1/jobs", json=spec(), headers=sent["read"])
        client.get("/v1/jobs", headers={"Authorization": "Bearer wrong"})
    client.post("/v1/jobs", headers=sent["admin"] | {"Host": "evil.example"})
    found = lines(client, headers=sent["admin"])
    ids = {name: row.id for name, (_, row) in made.items()}
    assert [(row["who"], row["project"], row["operation"], row["status"]) for row in found] == [
        (ids["submit"], "vision", "submit_job", 202),
        (ids["read"], "vision", "", 403),
        ("nobody", "", "", 401),
        ("nobody", "", "", 403),
    ]
    assert_problem(client.get("/v1/audit", headers=sent["submit"]), 403, "insufficient_scope")
    with db.engine.connect() as connection:
        stored = str(connection.execute(text("SELECT * FROM audit_log")).all())
    assert not any(key.split("_", 2)[2] in stored for key, _ in made.values())


@sqlite_only
def test_who_signed_in_and_out(client: TestClient, db: Database) -> None:
    reader, row = keys.create(db, "vision", keys.Scope.READ)
    admin = {"Authorization": f"Bearer {keys.create(db, 'ops', keys.Scope.ADMIN)[0]}"}
    client.post("/sign-in", data={"key": reader})
    client.post("/sign-out")
    client.cookies.clear()
    client.post("/sign-out")
    assert [(line["who"], line["project"], line["operation"]) for line in lines(client, headers=admin)] == [
        (row.id, "vision", "sign_in"),
        (row.id, "vision", "sign_out"),
        ("nobody", "", "sign_out"),
    ]


@sqlite_only
def test_a_refusal_is_written_down_again_after_a_minute(
    client: TestClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.create(db, "vision", keys.Scope.READ)
    for repeat_s in (60.0, 60.0, 0.0, 60.0):
        monkeypatch.setattr(layer, "REPEAT_S", repeat_s)
        assert client.get("/v1/jobs").status_code == 401
    with db.read() as session:
        assert len(audit.page(session, 10, None)) == 2


@sqlite_only
def test_lines_are_filtered_and_come_page_by_page(client: TestClient, db: Database) -> None:
    for number in range(7):
        facts = {"who": f"key{number % 2}", "project": "a", "address": "", "operation": f"op{number}", "method": "POST"}
        audit.record(db, **facts, target="x" * 500, status=200, at=datetime(2026, 1, 1 + number, tzinfo=UTC))
    assert [[row["operation"] for row in page] for page in pages(client, "/v1/audit", 3)] == [
        ["op6", "op5", "op4"],
        ["op3", "op2", "op1"],
        ["op0"],
    ]
    assert len(lines(client)[0]["target"]) == 200
    assert [row["operation"] for row in lines(client, params={"who": "key1"})] == ["op1", "op3", "op5"]
    assert [row["operation"] for row in lines(client, params={"operation": "op3", "project": "a"})] == ["op3"]
    between = {"since": "2026-01-02T00:00:00Z", "until": "2026-01-04T00:00:00Z"}
    assert [row["operation"] for row in lines(client, params=between)] == ["op1", "op2"]
    elsewhere = {"since": "2026-01-02T05:00:00+05:00", "until": "2026-01-03T19:00:00-05:00"}
    assert [row["operation"] for row in lines(client, params=elsewhere)] == ["op1", "op2"]
    assert_problem(client.get("/v1/audit?since=2026-01-02T00:00:00"), 422, "invalid_spec")
    assert_problem(client.get("/v1/audit?whom=a"), 422, "invalid_spec")


@sqlite_only
def test_a_line_that_cannot_be_stored_is_an_error_in_the_log(
    client: TestClient, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("disk I/O error"))

    monkeypatch.setattr(audit, "record", fail)
    with caplog.at_level(logging.ERROR, layer.__name__):
        assert client.post("/v1/jobs", json=spec()).status_code == 202
    (record,) = [record for record in caplog.records if record.name == layer.__name__]
    assert record.getMessage() == "a line of the audit log was not stored"
    assert record.__dict__["operation"] == "submit_job"


@sqlite_only
def test_old_lines_are_deleted_in_batches(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BATCH", 2)
    with db.write() as session:
        for day in range(1, 7):
            facts = {"project": "", "address": "", "operation": "", "method": "", "target": "", "status": 200}
            session.add(AuditLine(who="a", at=datetime(2026, 1, day, tzinfo=UTC), **facts))
    moment = datetime(2026, 1, 6, tzinfo=UTC)
    assert [audit.delete_before(db, moment) for _ in range(4)] == [2, 2, 1, 0]
    with db.read() as session:
        assert [row.at.day for row in audit.page(session, 10, None)] == [6]


@sqlite_only
@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize("given", ["0.5", "1790000000", "-1", "2026-11-01", "yesterday"])
def test_a_time_that_is_not_a_date_and_time_with_its_zone_is_refused(client: TestClient, name: str, given: str) -> None:
    (wrong,) = assert_problem(client.get("/v1/audit", params={name: given}), 422, "invalid_spec")["errors"]
    assert (wrong["field"], wrong["value"]) == (name, given)
    assert wrong["message"] == "must be a date and time with its zone, such as 2026-11-29T17:30:00Z"
    for right in ("2026-11-29T17:30:00Z", "2026-11-29T17:30:00.5+01:00"):
        assert client.get("/v1/audit", params={name: right}).status_code == 200


@sqlite_only
@pytest.mark.parametrize("given", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_outside_of_what_a_database_can_hold_is_refused(client: TestClient, given: str) -> None:
    (wrong,) = assert_problem(client.get("/v1/audit", params={"since": given}), 422, "invalid_spec")["errors"]
    assert wrong["message"] == "must be in the years 1 to 9999, also in UTC"
