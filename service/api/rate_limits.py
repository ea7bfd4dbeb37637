"""Refuses requests that come too fast, with 429: separately for reads, for writes, and for sign-ins.

Each API key has limits of its own. Requests without a key, which see nothing of a project, have those of their address.
Whoever uses a service without keys, on its own machine, has none. Each process of the API counts for itself.
"""

from __future__ import annotations

import time
from typing import Final, Literal

from fastapi import Request
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from service.api.middleware import READS
from service.errors import TooManyRequestsError
from service.ledger.keys import EVERYBODY, Access
from service.settings import Settings

Kind = Literal["read", "write", "sign_in"]

WHAT: Final[dict[Kind, str]] = {"read": "requests", "write": "changes", "sign_in": "attempts to sign in"}

OFF: Final = "off"

UNLIMITED: Final = ("/healthz", "/readyz")
"""What is asked again and again to see whether the service lives. It costs little."""


FORGET_EVERY_S: Final = 1.0
"""Counts that are over are looked for no more often than this: it takes a look at each count."""


class Counts(MemoryStorage):
    """Counts in the event loop, and forgets those that are over as it goes.

    The original forgets them in a thread. Under load it starts one up to a hundred times a second, and the event loop
    waits each time until the thread has begun, which takes long on a busy machine.
    """

    def __init__(self) -> None:
        super().__init__()
        self._forget_at = 0.0

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a count, which begins at 0 and is over after ``expiry`` seconds; return it."""
        now = time.time()
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY_S
            for old in [known for known, end in self.expirations.items() if end <= now]:
                self.clear(old)
        count = self.get(key) + amount
        if count == amount:
            self.expirations[key] = now + expiry
        self.storage[key] = count
        return count


class RateLimits:
    """Counts requests in a sliding window. The check of access calls it before a body is read."""

    def __init__(self, settings: Settings) -> None:
        rates = {kind: getattr(settings, f"{kind}_rate") for kind in WHAT}
        self._limits: dict[Kind, RateLimitItem] = {kind: parse(rate) for kind, rate in rates.items() if rate != OFF}
        self._limiter = SlidingWindowCounterRateLimiter(Counts())

    def count(self, request: Request, access: Access, *, signs_in: bool) -> None:
        """Count a request that may be answered; ``signs_in`` tells whether it is the form with a key.

        Raises:
            TooManyRequestsError: It comes too early.
        """
        if access is EVERYBODY or request.scope["path"] in UNLIMITED:
            return
        kind: Kind = "read" if request.method in READS else "write"
        self._take("sign_in" if signs_in else kind, access.key_id or f"address {_address(request)}")

    def count_refused(self, request: Request) -> None:
        """Count a request whose key or cookie is missing or not valid.

        Wrong keys do not count together with the form: otherwise a program with an old key would keep the people at its
        address from signing in.

        Raises:
            TooManyRequestsError: It comes too early.
        """
        has_key = "authorization" in request.headers
        self._take("sign_in" if has_key else "read", f"{'keys' if has_key else 'address'} {_address(request)}")

    def _take(self, kind: Kind, sender: str) -> None:
        limit = self._limits.get(kind)
        if limit is None or self._limiter.hit(limit, kind, sender):
            return
        retry_after_s = self._limiter.get_window_stats(limit, kind, sender).reset_time - time.time()
        raise TooManyRequestsError(
            f"too many {WHAT[kind]}: WARPTUNE_{kind.upper()}_RATE allows {limit}. Send the request again after the "
            "seconds in Retry-After",
            retry_after_s,
        )


def _address(request: Request) -> str:
    """Return the address that a request comes from; behind a trusted proxy, the one that the proxy names."""
    return request.client.host if request.client else ""
