"""One effect for each Idempotency-Key of a project: the first answer is stored with the key, and repeated.

A key is forgotten after a while; then the same key has a new effect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue
from sqlalchemy import and_, delete, or_, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.db.models import IdempotencyKey, Job
from service.db.session import Database, epoch_now
from service.errors import IdempotencyConflictError

Act = Callable[[Session], Job]
"""Does what a request asks for, in the transaction that it is given."""

Render = Callable[[Session, Job], dict[str, JsonValue]]
"""Turns the row of a job into the answer to the request."""


SWEPT_AT_ONCE: Final = 100
"""Most forgotten keys that are deleted with a new one."""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request with an Idempotency-Key. Requests with the same key must have the same body.

    Attributes:
        body_sha256: Of the body without what is equal to a default, so that a new field does not change it.
        full_sha256: Of the body with every default. Earlier versions have stored this one.
        kept_s: Seconds after which its key is forgotten.
    """

    key: str
    body_sha256: str
    full_sha256: str
    kept_s: float

    @classmethod
    def of(
        cls, key: str | None, body: Mapping[str, object], kept_s: float, full: Mapping[str, object] | None = None
    ) -> KeyedRequest | None:
        """Return a request with this JSON body; None if it has no key.

        Args:
            key: The Idempotency-Key.
            body: What it asks for, without what is equal to a default.
            kept_s: Seconds after which the key is forgotten.
            full: ``body`` with every default filled in; None if no field has a default.
        """
        if key is None:
            return None
        return cls(key, _sha256(body), _sha256(body if full is None else full), kept_s)


def _sha256(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request, and whether it repeats an earlier one."""

    body: dict[str, JsonValue]
    replayed: bool


def find_answer(db: Database, request: KeyedRequest) -> Answer | None:
    """Return the answer that is stored with the key of a request; None if the key is new.

    Raises:
        IdempotencyConflictError: The key was used with another body.
    """
    with db.read() as session:
        stored = _stored(session, db.owner, request)
    return None if stored is None else _replay(stored, request)


def answer_once(db: Database, request: KeyedRequest | None, act: Act, render: Render) -> Answer:
    """Do what a request asks for, unless its key has an answer already. One without a key always acts.

    ``act`` and ``render`` share a transaction.

    Raises:
        IdempotencyConflictError: The key was used with another body.
        DatabaseReplacedError: The database is not the one that this process began with.
    """
    try:
        with db.write() as session:
            db.check_identity(session)
            known = None if request is None else _stored(session, db.owner, request)
            if request is not None and known is not None:
                return _replay(known, request)
            if request is not None:
                _sweep(session, db.owner, request)
            job = act(session)
            answer = render(session, job)
            if request is not None:
                session.add(
                    IdempotencyKey(
                        owner=db.owner,
                        key=request.key,
                        spec_sha256=request.body_sha256,
                        job_id=job.id,
                        answer=answer,
                        created_s=epoch_now(),
                    )
                )
            return Answer(answer, replayed=False)
    except IntegrityError:
        if request is None:
            raise
    with db.read() as session:  # another request with the same key was a moment faster
        return _replay(session.get_one(IdempotencyKey, (db.owner, request.key)), request)


def _stored(session: Session, owner: str, request: KeyedRequest) -> IdempotencyKey | None:
    """Return the row of a request's key; None if it is new, or forgotten."""
    mine = select(IdempotencyKey).where(IdempotencyKey.owner == owner, IdempotencyKey.key == request.key)
    return session.scalars(mine.where(IdempotencyKey.created_s > epoch_now() - request.kept_s)).one_or_none()


def _sweep(session: Session, owner: str, request: KeyedRequest) -> None:
    """Delete forgotten keys: that of a request, whose row is about to be made again, and some of anybody's.

    Rows that another transaction deletes are skipped, so that two cannot wait for each other.
    """
    table, primary_key = IdempotencyKey, tuple_(IdempotencyKey.owner, IdempotencyKey.key)
    is_old = table.created_s <= epoch_now() - request.kept_s
    some = select(table.owner, table.key).where(is_old).limit(SWEPT_AT_ONCE).with_for_update(skip_locked=True)
    own = and_(table.owner == owner, table.key == request.key, is_old)
    session.execute(
        delete(table).where(or_(own, primary_key.in_(some))), execution_options={"synchronize_session": False}
    )


def _replay(stored: IdempotencyKey, request: KeyedRequest) -> Answer:
    if stored.spec_sha256 not in (request.body_sha256, request.full_sha256):
        raise IdempotencyConflictError(
            f"Idempotency-Key {request.key!r} was used before, with another body; send this one with a new key"
        )
    return Answer(stored.answer, replayed=True)
