"""API keys, and browsers that signed in with one.

A key reads ``wt_<id>_<secret>``: the prefix lets scanners find keys in code and logs, the id is how people speak of
a key, and the secret is 32 random bytes. The database has the SHA-256 of the whole key. A slow hash, as for
passwords, would gain nothing: nobody can try 2^256 secrets.

Keys are never deleted, only revoked, so a service whose last key was revoked does not become open to everybody.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from service.db.models import ApiKey, BrowserSession, utc_now
from service.db.session import Database
from service.errors import FieldError, InvalidSpecError, NotFoundError, ScopeError, UnauthorizedError
from service.settings import LOCAL_PROJECT

log = logging.getLogger(__name__)

PREFIX: Final = "wt"

KEY: Final = re.compile(rf"{PREFIX}_([0-9a-f]{{8}})_[A-Za-z0-9_-]{{43}}")

PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

USE_NOTED_EVERY: Final = timedelta(hours=1)
"""The time of the last use is not written more often than this."""

SESSION: Final = timedelta(hours=12)
"""How long a browser stays signed in."""


class Scope(StrEnum):
    """What a key allows. Each scope includes those before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        """Return whether this scope allows what ``other`` allows."""
        return _SCOPES.index(self) >= _SCOPES.index(other)


_SCOPES: Final = tuple(Scope)


@dataclass(frozen=True, slots=True)
class Access:
    """Who sends a request.

    Attributes:
        project: The project that its jobs and datasets belong to.
        scope: What it may do.
        key_id: Id of its API key; None without one.
    """

    project: str
    scope: Scope
    key_id: str | None = None

    @property
    def sees_all(self) -> bool:
        """Whether it sees the jobs and datasets of all projects."""
        return self.scope is Scope.ADMIN

    def require(self, needed: Scope) -> None:
        """Do nothing if the scope is large enough.

        Raises:
            ScopeError: It is not.
        """
        if not self.scope.includes(needed):
            who = f"the API key {PREFIX}_{self.key_id}_... of project {self.project} has {self.scope}"
            raise ScopeError(f"this needs the scope {needed}, and {who}", needed)


EVERYBODY: Final = Access(LOCAL_PROJECT, Scope.ADMIN)
"""Whoever uses a service without keys, on its own machine."""


def create(db: Database, project: str, scope: Scope, expires: timedelta | None = None) -> tuple[str, ApiKey]:
    """Make a key; return it, which cannot be found out later, and its row.

    Raises:
        InvalidSpecError: The project has no valid name, or the key would never be valid.
    """
    if not PROJECT.fullmatch(project):
        wrong = "must be 1 to 64 lower-case letters, digits, dots, dashes or underscores, the first a letter or digit"
        raise InvalidSpecError(FieldError("project", project, wrong))
    if expires is not None and expires <= timedelta():
        raise InvalidSpecError(FieldError("expires", str(expires), "must be a time in the future"))
    key_id = secrets.token_hex(4)
    key = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    row = ApiKey(
        id=key_id,
        sha256=_sha256(key),
        project=project,
        scope=scope,
        expires_at=None if expires is None else utc_now() + expires,
    )
    with db.write() as session:
        session.add(row)
    return key, row


def all_keys(db: Database) -> Sequence[ApiKey]:
    """Return all keys, the oldest first."""
    with db.read() as session:
        return session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)).all()


def exist(db: Database) -> bool:
    """Return whether a key was ever made, valid or not."""
    with db.read() as session:
        return session.scalar(select(ApiKey.id).limit(1)) is not None


def revoke(db: Database, key_id: str) -> ApiKey:
    """Make a key invalid at once, and sign out every browser that signed in with it.

    Raises:
        NotFoundError: There is no such key.
    """
    with db.write() as session:
        row = session.get(ApiKey, key_id)
        if row is None:
            raise NotFoundError(f"there is no API key with the id {key_id!r}; see warptune keys list")
        row.revoked_at = row.revoked_at or utc_now()
        session.execute(delete(BrowserSession).where(BrowserSession.key_id == key_id))
        return row


def authenticate(db: Database, key: str) -> Access:
    """Return who has this key.

    Raises:
        UnauthorizedError: It is wrong, expired or revoked.
    """
    form = KEY.fullmatch(key)
    with db.read() as session:
        row = None if form is None else session.get(ApiKey, form[1])
    if row is None or not hmac.compare_digest(_sha256(key), row.sha256):
        raise UnauthorizedError("the API key is not one of this service; copy all of it, from wt_ to its end")
    return _access(db, row)


def sign_in(db: Database, key: str) -> tuple[Access, str]:
    """Return who signs in with a key, and the text for the cookie of their browser.

    Raises:
        UnauthorizedError: The key is wrong, expired or revoked.
    """
    access, token = authenticate(db, key), secrets.token_urlsafe(32)
    with db.write() as session:
        session.execute(delete(BrowserSession).where(BrowserSession.expires_at < utc_now()))
        row = BrowserSession(sha256=_sha256(token), key_id=access.key_id, expires_at=utc_now() + SESSION)
        session.add(row)
    return access, token


def signed_in(db: Database, token: str) -> Access:
    """Return who signed in with a browser that has this cookie.

    Raises:
        UnauthorizedError: The cookie is wrong or expired, or its key is.
    """
    with db.read() as session:
        found = session.get(BrowserSession, _sha256(token))
        row = None if found is None or found.expires_at < utc_now() else session.get(ApiKey, found.key_id)
    if row is None:
        raise UnauthorizedError("you are not signed in any more: sign in again")
    return _access(db, row)


def sign_out(db: Database, token: str) -> None:
    """Forget a browser that signed in."""
    with db.write() as session:
        session.execute(delete(BrowserSession).where(BrowserSession.sha256 == _sha256(token)))


def standing(row: ApiKey, now: datetime) -> str:
    """Return ``revoked``, ``expired`` or ``valid``."""
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "valid"


def _access(db: Database, row: ApiKey) -> Access:
    now = utc_now()
    if (found := standing(row, now)) != "valid":
        advice = f"make another: warptune keys create --project {row.project} --scope {row.scope}"
        raise UnauthorizedError(f"the API key {PREFIX}_{row.id}_... is {found}; {advice}")
    if row.last_used_at is None or now - row.last_used_at > USE_NOTED_EVERY:
        try:
            with db.write() as session:
                session.execute(update(ApiKey).where(ApiKey.id == row.id).values(last_used_at=now))
        except SQLAlchemyError as error:  # a full disk or a long write of another process must not stop reads
            log.warning("the last use of an API key was not stored", extra={"key": row.id}, exc_info=error)
    return Access(row.project, Scope(row.scope), row.id)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
