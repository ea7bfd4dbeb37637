"""The stream of a job's events as a client reads it: put together from bytes, and gone on with after a cut.

Nothing here is sent or received: the two clients share it.
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import Any, Final

import httpx2

from service.client import calls
from service.client.answers import Event
from service.client.calls import ApiError

MEDIA_TYPE: Final = "text/event-stream"


class EventStream:
    """Which events of a job a client has seen, and whether it still waits for the service.

    The service ends a stream when the job has ended, or when it stops itself. So a client asks again until there is
    nothing more. It sends the id of the last event, so that no event is missing and none comes twice.

    Attributes:
        path: Path of the events.
        ended: Whether the job has ended and all its events were seen.
    """

    def __init__(self, job_id: str, after: int | None = None) -> None:
        self.path = f"{calls.job_path(job_id)}/events"
        self.ended = False
        self._last_id = after
        self._opened: httpx2.Response
        self._rest = b""
        self._wait_s = calls.WAITS_S[0]
        self._away_since: float | None = None

    def options(self) -> dict[str, Any]:
        """Return what httpx2 is told when the stream is opened."""
        seen = {} if self._last_id is None else {"Last-Event-ID": str(self._last_id)}
        return {"headers": {"Accept": MEDIA_TYPE, **seen}, "timeout": calls.TIMEOUT_S}

    def open(self, response: httpx2.Response) -> None:
        """Take note that the service has answered. The body of a refusal was read before.

        Raises:
            ApiError: It refuses, or is another server.
        """
        calls.checked(response)
        self._opened = response
        self._rest, self._away_since = b"", None
        self.ended = response.status_code == HTTPStatus.NO_CONTENT
        if not self.ended and not response.headers.get("Content-Type", "").startswith(MEDIA_TYPE):
            raise calls.stranger(response)

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that are complete with these bytes.

        Raises:
            ApiError: They are not events, so another server has sent them.
        """
        *blocks, self._rest = (self._rest + chunk.replace(b"\r", b"")).split(b"\n\n")
        found = [event for block in blocks if (event := self._event(block)) is not None]
        if found:
            self._last_id, self._wait_s = found[-1]["id"], calls.WAITS_S[0]
        return found

    def reopen(self) -> None:
        """Take note that the job goes on after all: it was queued again when the stream had ended."""
        self.ended = False

    def pause(self, error: ApiError | None) -> float:
        """Return the seconds to wait before the stream is opened again, after it was cut or ended.

        Raises:
            ApiError: The service has been away for too long, or has refused.
        """
        if error is not None:
            now = time.monotonic()
            self._away_since = self._away_since or now
            was_cut = isinstance(error.__cause__, (*calls.LOST, httpx2.TimeoutException))
            helps = was_cut or error.status in calls.BUSY
            limit_s = calls.LONGEST_WAIT_S if error.retry_after_s else calls.TIMEOUT_S
            if not helps or now + error.retry_after_s - self._away_since > limit_s:
                raise error
        pause = max(self._wait_s, error.retry_after_s if error else 0.0)
        self._wait_s = min(2 * pause, calls.WAITS_S[1])
        return pause

    def _event(self, block: bytes) -> Event | None:
        """Return the event of a block; None for a comment."""
        lines = [line.removeprefix(b"data:") for line in block.split(b"\n") if line.startswith(b"data:")]
        if not lines:
            return None
        try:
            event: Event = json.loads(b"\n".join(lines))
            int(event["id"])
        except (ValueError, TypeError, KeyError):
            raise calls.stranger(self._opened) from None
        return event
