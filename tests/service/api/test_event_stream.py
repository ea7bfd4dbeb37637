# A job can be followed as a stream of server-sent events, which goes on where it was cut off.
from __future__ import annotations

import json
import threading
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from service.db.session import Database
from service.ledger.jobs import cancel
from service.states import TrialState
from service.training.run import Ended
from tests.conftest import SpecMaker
from tests.service.api.conftest import Submit, assert_problem, claim_job, succeed
from tests.service.cli.test_serve import Start, start

__all__ = ["start"]  # the fixture

ACCEPT = {"Accept": "text/event-stream"}


def events_in(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream, each of which has an id."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            event = json.loads(fields["data"])
            assert int(fields["id"]) == event["id"]
            found.append(event)
    return found


def test_the_stream_of_a_job_that_has_ended_is_its_list_of_events(
    client: TestClient, submit: Submit, db: Database
) -> None:
    path = submit()["links"]["events"]
    succeed(claim_job(db))
    listed = client.get(path, params={"limit": 200}).json()["items"]
    answer = client.get(path, headers=ACCEPT)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events_in(answer.text) == listed
    kinds = [event["kind"] for event in listed]
    assert kinds[:2] == ["submitted", "claimed"]
    assert kinds[-1] == "succeeded"
    assert kinds.count("trial_finished") == 5
    (last,) = [event for event in listed if event["kind"] == "trial_finished" and event["data"]["trial"] == 4]
    assert last["data"].keys() == {"trial", "arm", "state", "value"}


def test_a_stream_goes_on_after_the_last_event_that_was_seen(client: TestClient, submit: Submit, db: Database) -> None:
    path = submit()["links"]["events"]
    succeed(claim_job(db))
    ids = [event["id"] for event in client.get(path, params={"limit": 200}).json()["items"]]
    rest = client.get(path, headers={**ACCEPT, "Last-Event-ID": str(ids[3])})
    assert [event["id"] for event in events_in(rest.text)] == ids[4:]
    assert client.get(path, headers={**ACCEPT, "Last-Event-ID": str(ids[-1])}).status_code == 204


def test_a_stream_of_no_job_is_a_problem(client: TestClient) -> None:
    assert_problem(client.get("/v1/jobs/no-such-job/events", headers=ACCEPT), 404, "not_found")
    wrong = client.get("/v1/jobs/no-such-job/events", headers={**ACCEPT, "Last-Event-ID": "x"})
    (error,) = assert_problem(wrong, 422, "invalid_spec")["errors"]
    assert error["field"].lower() == "last-event-id"


@pytest.mark.slow
def test_a_hundred_cut_streams_miss_no_event_and_repeat_none(start: Start, spec: SpecMaker) -> None:
    service = start("--no-worker")
    job = service.client.submit(spec())
    db = Database(service.environment["WARPTUNE_DATABASE_URL"])
    log = claim_job(db)

    def write() -> None:
        for number in range(300):
            trial = log.add_trial("warpadam", {}, running=True)
            log.finish_trial(trial.id, Ended(TrialState.COMPLETE, 1.0 + number, 1.0), 0.0)
        cancel(db, job["id"])
        log.release()

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[int] = []
    cuts = 0
    while True:
        headers = ACCEPT | ({"Last-Event-ID": str(seen[-1])} if seen else {})
        with httpx2.stream("GET", f"{service.url}{job['links']['events']}", headers=headers, timeout=20) as stream:
            if stream.status_code == 204:
                break
            got = 0
            for line in stream.iter_lines():
                if line.startswith("id: "):
                    seen.append(int(line.removeprefix("id: ")))
                    got += 1
                    if got == 1 + cuts % 5:
                        break
            cuts += 1
    writer.join()
    everything = [event["id"] for event in service.client.events(job["id"])]
    assert cuts >= 100
    assert seen == everything
    db.close()


@pytest.mark.slow
def test_a_server_with_an_open_stream_stops_at_once(start: Start, spec: SpecMaker) -> None:
    service = start("--no-worker")
    job = service.client.submit(spec())
    with httpx2.stream("GET", f"{service.url}{job['links']['events']}", headers=ACCEPT, timeout=20) as stream:
        next(stream.iter_lines())
        service.process.terminate()
        assert service.process.wait(10) == 0
