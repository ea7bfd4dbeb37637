"""Sends the messages that jobs have ended, in a thread of the worker, so that no job waits for a receiver.

Messages follow the Standard Webhooks specification (https://www.standardwebhooks.com). The receiver gets the same
``webhook-id`` in every attempt, and checks the signature with any library for that specification.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import httpx2
from sqlalchemy.exc import SQLAlchemyError

from service.db.models import Notification
from service.db.session import Database
from service.errors import DatabaseReplacedError
from service.ledger import outbox
from service.settings import Settings

log = logging.getLogger(__name__)

PAUSES_S: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0)
"""Seconds between an attempt and the next: eight attempts in a day and a half."""

LIMIT_S: Final = 10.0
"""Longest time of an attempt, from the look-up of the name to the status of the answer."""

HOLD_S: Final = 60.0
"""Seconds after which a message of a worker that died is sent again."""

LOOK_S: Final = 1.0
"""Seconds between two looks for a message."""

STOP_S: Final = 2.0
"""Seconds that a stopping worker gives an attempt. What it does not finish is repeated."""

GONE: Final = 410
"""Status with which a receiver says that it wants no more of this message."""


class Notifier:
    """Sends messages while it is open. It does nothing if the operator allows no host.

    ``pauses_s`` and ``limit_s`` are :data:`PAUSES_S` and :data:`LIMIT_S`, other ones in tests.
    """

    def __init__(
        self, settings: Settings, db: Database, pauses_s: Sequence[float] = PAUSES_S, limit_s: float = LIMIT_S
    ) -> None:
        self._settings, self._db, self._pauses_s, self._limit_s = settings, db, pauses_s, limit_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send_until_stopped, name="notifier", daemon=True)

    def __enter__(self) -> Notifier:
        if self._settings.notify_hosts:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _send_until_stopped(self) -> None:
        while not self._stopping.is_set():
            try:
                found = self.send_next()
            except (SQLAlchemyError, DatabaseReplacedError):
                log.warning("cannot reach the ledger to notify", exc_info=True)
                found = False
            except Exception:
                log.exception("cannot notify")
                found = False
            if not found:
                self._stopping.wait(LOOK_S)

    def send_next(self) -> bool:
        """Try to send one message that is due; return False if there is none."""
        message = outbox.take(self._db, HOLD_S)
        if message is None:
            return False
        tried = message.attempts - 1
        pause_s = self._pauses_s[tried] if tried < len(self._pauses_s) else None
        cause = self._settings.notify_refusal(message.url)
        if cause is not None:
            cause, pause_s = f"notify.url {cause}", None
        else:
            try:
                status = asyncio.run(self._post(message))
            except TimeoutError:
                cause = f"no answer within {self._limit_s:g} seconds"
            except Exception as error:
                cause = f"{type(error).__name__}: {error}".removesuffix(": ")
                if not isinstance(error, httpx2.HTTPError | httpx2.InvalidURL | OSError):  # such as a SOCKS proxy
                    log.exception("cannot notify")
            else:
                cause = None if 200 <= status < 300 else f"the receiver answered {status}"
                pause_s = None if status == GONE else pause_s
        outbox.settle(self._db, message, cause, None if cause is None else pause_s)
        facts = {"job": message.job_id, "request_id": outbox.request_id_of(self._db, message)}
        log.info("notified", extra={**facts, "attempt": message.attempts, "cause": cause})
        return True

    async def _post(self, message: Notification) -> int:
        """Send the message and return the status of the answer, whose body is not read."""
        content = _content(message, self._settings.pages_url)
        headers = signed_headers(message.id, content, self._settings.notify_key, int(time.time()))
        async with (
            asyncio.timeout(self._limit_s),
            httpx2.AsyncClient(follow_redirects=False, timeout=None) as client,  # asyncio has the limit
            client.stream("POST", message.url, content=content, headers=headers) as answer,
        ):
            return answer.status_code


def _content(message: Notification, pages_url: str) -> bytes:
    body = {
        "type": f"job.{message.data['state']}",
        "timestamp": datetime.now(UTC).isoformat(),
        "data": {**message.data, "link": f"{pages_url}/jobs/{message.job_id}"},
    }
    return json.dumps(body).encode()


def signed_headers(message_id: str, content: bytes, key: bytes, timestamp: int) -> Mapping[str, str]:
    """Return the headers of a message: its id, its time in seconds since 1970, and the signature of both and the body.

    >>> signed_headers("msg_1", b"{}", b"k" * 24, 1614265330)["webhook-signature"]
    'v1,KrbhoJST6Q+/bu1g6/FBBu+pIEtkrImj8aKkA5+3RXI='
    """
    digest = hmac.digest(key, b".".join((message_id.encode(), str(timestamp).encode(), content)), "sha256")
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
