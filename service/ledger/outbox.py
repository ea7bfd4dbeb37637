"""The messages that jobs have ended, as a worker takes and settles them.

A message is stored in the transaction that ends its job. Taking it puts off its next attempt, so that another worker
repeats it if this one dies: it arrives at least once.
"""

from __future__ import annotations

from pydantic import JsonValue
from sqlalchemy import exists, select, update

from service.db.models import Job, Notification
from service.db.session import Database, epoch_now
from service.ledger.jobs import record_event


def take(db: Database, hold_s: float) -> Notification | None:
    """Return the message that is due for longest, with one more attempt counted; None if there is none.

    No worker gets it again within ``hold_s`` seconds.
    """
    is_due = Notification.due_s <= epoch_now()
    with db.read() as session:
        if not session.scalar(select(exists().where(is_due))):  # most looks find nothing and take no write lock
            return None
    first = (
        select(Notification.id).where(is_due).order_by(Notification.due_s).limit(1).with_for_update(skip_locked=True)
    )
    statement = (
        update(Notification)
        .where(Notification.id == first.scalar_subquery())
        .values(attempts=Notification.attempts + 1, due_s=epoch_now() + hold_s)
        .returning(Notification)
        .execution_options(synchronize_session=False)
    )
    with db.write() as session:
        return session.scalars(statement).one_or_none()


def request_id_of(db: Database, message: Notification) -> str | None:
    """Return the id of the request that queued the job of a message; None if none did, or the job is gone."""
    with db.read() as session:
        return session.scalar(select(Job.request_id).where(Job.id == message.job_id))


def settle(db: Database, message: Notification, cause: str | None, pause_s: float | None) -> None:
    """Store how an attempt ended, as an event of the job.

    Args:
        db: The database.
        message: From :func:`take`.
        cause: Why it failed; None if the message has arrived.
        pause_s: Seconds until the next attempt; None for no other.
    """
    due_s = None if pause_s is None else epoch_now() + pause_s
    what: dict[str, JsonValue] = {"attempt": message.attempts}
    if cause is not None:
        what |= {"cause": cause, "next_in_s": pause_s}
    with db.write() as session:
        if session.scalar(select(exists().where(Job.id == message.job_id))):
            session.execute(update(Notification).where(Notification.id == message.id).values(due_s=due_s))
            kind = "notification_sent" if cause is None else "notification_failed"
            record_event(session, message.job_id, kind, **what)
