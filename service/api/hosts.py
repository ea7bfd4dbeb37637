# There is no login, so a page of another site must not be able to use the API through its reader's browser: neither
# under a name of its own that it points at this machine (DNS rebinding), nor by a form or a fetch without an answer.
"""Which names the API answers to, and which sites may change something through it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import problem
from service.errors import shortened

LOCAL: Final = ("localhost", "*.localhost")
"""Names that no other machine can have."""

READS: Final = ("GET", "HEAD", "OPTIONS")


class HostCheck:
    """ASGI middleware that answers 403 to a foreign ``Host``, and to a change that a page of another site asks for.

    Args:
        app: The application.
        host: Address that the API listens on.
        allowed: Names that it answers to beside addresses and localhost, separated by commas; None: on a loopback
            address no other ones, elsewhere any.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: str | None) -> None:
        self._app = app
        self._listed = [name.lower() for name in allowed.split(",")] if allowed else []
        self._any_site = "*" in self._listed
        self._any_host = self._any_site or (allowed is None and not _is_loopback(host))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may be passed on."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problem(403, "forbidden", refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        given, origin = headers.get("host"), headers.get("origin")
        name = _name(f"//{given}") if given is not None else None
        setting = "the operator's setting WARPTUNE_ALLOWED_HOSTS lists the names that are"
        if given is not None and not self._any_host and not (name and (_is_address(name) or self._lists(name, LOCAL))):
            return f"the Host {shortened(given)!r} is not one that this service answers to: {setting}"
        if origin is None or self._any_site or scope["method"] in READS:
            return None
        site = _name(origin)
        if site is not None and (site == name or self._lists(site)):
            return None
        return f"a page of {shortened(origin)!r} may change nothing here: {setting}"

    def _lists(self, name: str, more: tuple[str, ...] = ()) -> bool:
        patterns = [*self._listed, *more]
        return any(name == known or (known.startswith("*.") and name.endswith(known[1:])) for known in patterns)


def _name(url: str) -> str | None:
    """Return the name or address in a URL; None if there is none."""
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return None
    return name.removesuffix(".") if name else None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return ip_address(host).is_loopback if _is_address(host) else host.lower() == "localhost"
