"""The audit log: who changed what, and who was refused. Lines are added and expire; none is changed."""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import String, delete, select
from sqlalchemy.orm import Session

from service.db.models import AuditLine
from service.db.session import Database, storable

COMMAND: Final = "command"
"""The method of a line that a command wrote next to the database."""

LENGTHS: Final = {
    column.name: column.type.length for column in AuditLine.__table__.columns if isinstance(column.type, String)
}
"""The longest text of each column."""

BATCH: Final = 1_000
"""Most lines that are deleted in one transaction."""


def record(db: Database, **facts: Any) -> None:
    """Add a line; ``facts`` are columns of :class:`~service.db.models.AuditLine`. Longer texts are cut."""
    cut = {name: storable(value)[: LENGTHS[name]] if isinstance(value, str) else value for name, value in facts.items()}
    with db.write() as session:
        session.add(AuditLine(**cut))


def record_command(db: Database, operation: str, target: str, project: str = "", who: str | None = None) -> None:
    """Add a line about what is done next to the database, by default by the user who runs a command."""
    who = who or f"user {_user()}"
    record(db, who=who, project=project, address="", operation=operation, method=COMMAND, target=target)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have a user without a name
        return str(os.getuid())


def page(
    session: Session,
    limit: int,
    before: int | None,
    since: datetime | None = None,
    until: datetime | None = None,
    **equals: str | None,
) -> Sequence[AuditLine]:
    """Return lines, the newest first, with an id below ``before``; ``equals`` filters columns."""
    query = select(AuditLine).order_by(AuditLine.id.desc()).limit(limit)
    query = query.filter_by(**{name: value for name, value in equals.items() if value is not None})
    if before is not None:
        query = query.where(AuditLine.id < before)
    if since is not None:
        query = query.where(AuditLine.at >= since)
    return session.scalars(query if until is None else query.where(AuditLine.at < until)).all()


def delete_before(db: Database, moment: datetime) -> int:
    """Delete a batch of the lines that are older than a moment, and return how many."""
    oldest = select(AuditLine.id).where(AuditLine.at < moment).order_by(AuditLine.at).limit(BATCH)
    with db.write() as session:
        ids = session.scalars(oldest).all()
        session.execute(delete(AuditLine).where(AuditLine.id.in_(ids)))
    return len(ids)
