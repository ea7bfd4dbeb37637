"""What projects use of the service: jobs that wait, and bytes that are stored."""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from service.db.models import DatasetRow, Job
from service.db.session import EVERY_PROJECT
from service.errors import QueueFullError, QuotaExceededError
from service.states import JobState

WAITING: Final = (JobState.QUEUED, JobState.PAUSED)
"""Paused jobs count as waiting. Otherwise one could pause a full queue, fill it again, and resume them all."""

RETRY_QUEUE_S: Final = 30.0
"""Seconds after which a job may be sent again for which the queue had no place."""

QUEUE_LOCK: Final = 0x57617271
"""Key of the PostgreSQL advisory lock of transactions that count jobs and then queue one."""


def stored_bytes(session: Session, owner: str) -> int:
    """Return the bytes of the datasets and the jobs of a project."""
    sums = [select(func.sum(table.stored_bytes)).where(table.owner == owner) for table in (Job, DatasetRow)]
    return sum(int(session.scalar(query) or 0) for query in sums)


def require_quota(session: Session, owner: str, limit_bytes: int | None, more_bytes: int = 0) -> None:
    """Check that a project may store something more; how much, where it is known.

    Raises:
        QuotaExceededError: It may not.
    """
    if limit_bytes is None:
        return
    used = stored_bytes(session, owner)
    if used >= limit_bytes or used + more_bytes > limit_bytes:
        needed = f", and this takes {more_bytes} more" if more_bytes else ""
        raise QuotaExceededError(
            f"project {owner} stores {used} bytes{needed}; it may store {limit_bytes} (WARPTUNE_MAX_PROJECT_BYTES): "
            "delete jobs or datasets first"
        )


def require_place_in_queue(session: Session, owner: str, limit: int, limit_of_project: int | None) -> None:
    """Check that one more job may wait. Until the transaction has ended, no other one is let in.

    Raises:
        QueueFullError: As many wait as may.
    """
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer anyway
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": QUEUE_LOCK})
    waiting = select(func.count()).select_from(Job).where(Job.state.in_(WAITING))
    for whose, query, most, setting in (
        (f"jobs of project {owner}", waiting.where(Job.owner == owner), limit_of_project, "_PER_PROJECT"),
        ("jobs", waiting, limit, ""),
    ):
        count = 0 if most is None else session.scalar(query, execution_options={EVERY_PROJECT: True}) or 0
        if most is not None and count >= most:
            raise QueueFullError(
                f"{count} {whose} wait already, as many as may (WARPTUNE_MAX_QUEUED_JOBS{setting} is {most}): send the "
                "job again when some have started",
                RETRY_QUEUE_S,
            )
