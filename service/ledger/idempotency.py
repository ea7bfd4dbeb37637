"""One effect for each Idempotency-Key of a project: the first answer is stored with the key, and repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.db.models import IdempotencyKey, Job
from service.db.session import Database
from service.errors import IdempotencyConflictError

Act = Callable[[Session], Job]
"""Does what a request asks for, in the transaction that it is given."""

Render = Callable[[Session, Job], dict[str, JsonValue]]
"""Turns the row of a job into the answer to the request."""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request with an Idempotency-Key. Requests with the same key must have the same body."""

    key: str
    body_sha256: str

    @classmethod
    def of(cls, key: str | None, body: Mapping[str, object]) -> KeyedRequest | None:
        """Return a request with this JSON body; None if it has no key."""
        if key is None:
            return None
        return cls(key, hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest())


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
        stored = session.get(IdempotencyKey, (db.owner, request.key))
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
            known = None if request is None else session.get(IdempotencyKey, (db.owner, request.key))
            if request is not None and known is not None:
                return _replay(known, request)
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
                    )
                )
            return Answer(answer, replayed=False)
    except IntegrityError:
        if request is None:
            raise
    with db.read() as session:  # another request with the same key was a moment faster
        return _replay(session.get_one(IdempotencyKey, (db.owner, request.key)), request)


def _replay(stored: IdempotencyKey, request: KeyedRequest) -> Answer:
    if stored.spec_sha256 != request.body_sha256:
        raise IdempotencyConflictError(
            f"Idempotency-Key {request.key!r} was used before, with another body; send this one with a new key"
        )
    return Answer(stored.answer, replayed=True)
