"""Events: the history of a job, written in the transaction of the change that each one tells of."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import JsonValue
from sqlalchemy.orm import Session

from service.db.models import Event


def now() -> datetime:
    """Return the present time, aware and in UTC."""
    return datetime.now(UTC)


def record(session: Session, job_id: str, kind: str, **data: JsonValue) -> None:
    """Add an event to the transaction of ``session``."""
    session.add(Event(job_id=job_id, at=now(), kind=kind, data=data))
