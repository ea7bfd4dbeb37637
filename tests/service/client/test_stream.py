# What a client makes of the bytes of a stream, wherever they are cut, and how long it waits for a service.
from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from service.client import calls
from service.client.calls import ApiError
from service.client.stream import EventStream

EVENTS: list[Any] = [{"id": number, "at": "", "kind": "ö", "data": {}} for number in (3, 7, 8)]
BYTES = (
    b": keepalive\n\n"
    + "".join(f"data: {json.dumps(event, ensure_ascii=False)}\nid: {event['id']}\n\n" for event in EVENTS).encode()
)


def test_events_are_complete_wherever_the_bytes_are_cut() -> None:
    for place in range(len(BYTES) + 1):
        seen = EventStream("job-1")
        assert [*seen.feed(BYTES[:place]), *seen.feed(BYTES[place:])] == EVENTS
        assert seen.options()["headers"]["Last-Event-ID"] == "8"


def test_half_an_event_is_forgotten_with_its_stream() -> None:
    seen = EventStream("job-1", after=2)
    assert seen.feed(BYTES[:-5]) == EVENTS[:2]
    begins = httpx2.Response(200, headers={"Content-Type": "text/event-stream"})
    seen.open(begins)
    assert seen.options()["headers"]["Last-Event-ID"] == "7"
    assert seen.feed(BYTES[BYTES.index(b'data: {"id": 8') :]) == EVENTS[2:]
    seen.open(httpx2.Response(204))
    assert seen.ended


def error(status: int, cause: Exception | None) -> ApiError:
    made = ApiError(status, "no")
    made.__cause__ = cause
    return made


CUT = error(0, httpx2.ReadError("reset"))


@pytest.mark.parametrize("cut", [None, CUT, error(0, httpx2.ReadTimeout("slow")), error(503, None)])
def test_the_pauses_before_a_stream_is_opened_again_grow(cut: ApiError | None) -> None:
    seen = EventStream("job-1")
    pauses = [seen.pause(cut) for _ in range(7)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == calls.WAITS_S
    seen.feed(BYTES)
    assert seen.pause(None) == pauses[0]


def test_a_stream_is_not_opened_before_the_time_that_the_service_asks_for() -> None:
    assert EventStream("job-1").pause(ApiError(429, "later", retry_after_s=9.0)) == 9.0


@pytest.mark.parametrize("given", ["61", "86400", "9" * 400])
def test_a_service_that_asks_to_wait_for_longer_than_a_minute_is_not_waited_for(given: str) -> None:
    with pytest.raises(ApiError) as caught:
        calls.checked(httpx2.Response(503, headers={"Retry-After": given}))
    with pytest.raises(ApiError) as again:
        EventStream("job-1").pause(caught.value)
    assert again.value is caught.value


def test_all_waits_for_a_service_together_take_a_minute_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, now = EventStream("job-1"), [100.0]
    monkeypatch.setattr("service.client.stream.time.monotonic", lambda: now[0])
    later = ApiError(503, "later", retry_after_s=25.0)
    for _ in range(2):
        now[0] += seen.pause(later)
    with pytest.raises(ApiError):
        seen.pause(later)


@pytest.mark.parametrize("refusal", [error(404, None), error(0, httpx2.UnsupportedProtocol("ftp"))])
def test_what_would_fail_again_is_raised_at_once(refusal: ApiError) -> None:
    with pytest.raises(ApiError):
        EventStream("job-1").pause(refusal)


def test_a_service_that_stays_away_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("service.client.stream.time.monotonic", lambda: now)
    seen = EventStream("job-1")
    seen.pause(CUT)
    now += calls.TIMEOUT_S
    seen.pause(CUT)
    now += 1
    with pytest.raises(ApiError):
        seen.pause(CUT)
