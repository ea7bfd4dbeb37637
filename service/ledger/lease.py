"""Leases: which worker owns a job.

A claim is one conditional UPDATE. Every later write of the owner goes through :func:`fenced`, which refuses a token
that is no longer the newest. All times are those of the database's clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from service.db.models import Job
from service.db.session import Database, epoch_now
from service.errors import LeaseLostError
from service.ledger.events import now, record
from service.ledger.jobs import close, require_job
from service.spec.job import JobSpec
from service.states import ACTIVE_JOB, JobState


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write about one job.

    Attributes:
        job_id: The job.
        token: Fencing token; grows with every claim of the job.
        spec_json: The job's spec, as it was stored.
        info_json: Facts about its uploaded data and user code, as they were stored; None if it has neither.
    """

    job_id: str
    token: int
    spec_json: Mapping[str, object]
    info_json: Mapping[str, object] | None = None

    @property
    def spec(self) -> JobSpec:
        """The job's spec. Raises OtherVersionError if another version stored what this one cannot read."""
        return JobSpec.from_json(self.spec_json)


def _lost(lease: Lease) -> LeaseLostError:
    return LeaseLostError(f"another worker owns job {lease.job_id} now, or it was deleted")


def claim(db: Database, worker: str, lease_s: float) -> Lease | None:
    """Take the oldest job that is queued, or whose worker has been silent for longer than its lease.

    Returns:
        The lease, or None when there is nothing to do.
    """
    free = or_(Job.state == JobState.QUEUED, and_(Job.state.in_(ACTIVE_JOB), Job.lease_expires_s < epoch_now()))
    oldest = select(Job.seq).where(free).order_by(Job.seq).limit(1).with_for_update(skip_locked=True)
    statement = (
        update(Job)
        .where(Job.seq == oldest.scalar_subquery())
        .values(
            state=case((Job.state == JobState.QUEUED, JobState.RUNNING), else_=Job.state),
            started_at=func.coalesce(Job.started_at, now()),
            lease_worker=worker,
            lease_token=Job.lease_token + 1,
            lease_expires_s=epoch_now() + lease_s,
        )
        .returning(Job.id, Job.lease_token, Job.spec, Job.dataset_info)
        .execution_options(synchronize_session=False)
    )
    with db.write() as session:
        row = session.execute(statement).one_or_none()
        if row is None:
            return None
        record(session, row.id, "claimed", worker=worker, token=row.lease_token)
    return Lease(row.id, row.lease_token, row.spec, row.dataset_info)


def renew(db: Database, lease: Lease, lease_s: float) -> None:
    """Push the end of the lease ``lease_s`` seconds into the future.

    Raises:
        LeaseLostError: The job has another owner, or is gone.
    """
    mine = (Job.id == lease.job_id, Job.lease_token == lease.token)
    with db.write() as session:
        renewed = update(Job).where(*mine).values(lease_expires_s=epoch_now() + lease_s).returning(Job.id)
        if session.execute(renewed).first() is None:
            raise _lost(lease)


def cancel_requested(db: Database, lease: Lease) -> bool:
    """Tell whether the job's user wants it stopped.

    Raises:
        LeaseLostError: The job has another owner, or is gone.
    """
    with db.read() as session:
        row = session.execute(select(Job.lease_token, Job.cancel_requested).where(Job.id == lease.job_id)).one_or_none()
    if row is None or row.lease_token != lease.token:
        raise _lost(lease)
    return bool(row.cancel_requested)


@contextmanager
def fenced(db: Database, lease: Lease) -> Iterator[Session]:
    """Open a transaction that writes about the leased job.

    Raises:
        LeaseLostError: The job has another owner, or is gone; nothing is written.
    """
    with db.write() as session:
        mine = select(Job.id).where(Job.id == lease.job_id, Job.lease_token == lease.token)
        if session.execute(mine.with_for_update()).one_or_none() is None:
            raise _lost(lease)
        yield session


def release(db: Database, lease: Lease) -> bool:
    """Give an unfinished job back for the next worker, or cancel it if that was asked for in the meantime.

    Returns:
        Whether it was cancelled.

    Raises:
        LeaseLostError: The job has another owner, or is gone.
    """
    with fenced(db, lease) as session:
        job = require_job(session, lease.job_id)
        if job.cancel_requested:
            close(session, job, JobState.CANCELLED)
            return True
        job.state, job.lease_worker, job.lease_expires_s = JobState.QUEUED, None, None
        record(session, lease.job_id, "released")
    return False
