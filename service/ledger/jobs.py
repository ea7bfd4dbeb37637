# What the API changes: a job comes in, is cancelled, goes away. It never touches a job that a worker owns, except to
# ask that worker to stop.
"""Submission, cancellation and deletion of jobs."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.db.models import Arm, ConfirmRun, IdempotencyKey, Job, Trial
from service.db.session import Database, epoch_now
from service.errors import ConflictError, IdempotencyConflictError, NotFoundError
from service.ledger import datasets
from service.ledger.events import now, record
from service.states import ACTIVE_JOB, ENDED_JOB, LIVE_TRIAL, ArmState, JobState, TrialState


def spec_hash(spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a whole spec: bodies that say the same are the same."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def require_job(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """Return the job's row.

    Args:
        session: The transaction.
        job_id: Id of the job.
        lock: Keep others from changing the row until the transaction has ended.

    Raises:
        NotFoundError: There is none.
    """
    wanted = select(Job).where(Job.id == job_id)
    job = session.scalars(wanted.with_for_update() if lock else wanted).one_or_none()
    if job is None:
        raise NotFoundError(f"there is no job {job_id!r}")
    return job


def submit(
    db: Database,
    spec: Mapping[str, Any],
    arms: Sequence[str],
    info: Mapping[str, Any] | None = None,
    keep: Callable[[str], None] | None = None,
) -> Job:
    """Store a queued job with its arms.

    Args:
        db: The ledger's database.
        spec: The whole spec, defaults written out.
        arms: Names of the arms, in the order in which they will run.
        info: What is known of an uploaded dataset, and of user code.
        keep: Stores the files that the job comes with, given its id, before a worker can take it.

    Raises:
        ConflictError: The uploaded dataset was deleted.
    """
    with db.write() as session:
        return _insert(session, spec, arms, info, keep)


def submit_once(
    db: Database,
    spec: Mapping[str, Any],
    arms: Sequence[str],
    key: str,
    render: Callable[[Session, Job], dict[str, Any]],
    info: Mapping[str, Any] | None = None,
    keep: Callable[[str], None] | None = None,
    sent: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], bool]:
    """Store a queued job unless ``key`` already stands for one.

    Args:
        db: The ledger's database.
        spec: The whole spec, defaults written out.
        arms: Names of the arms, in the order in which they will run.
        key: The Idempotency-Key.
        render: Turns the new job into the answer that is stored and replayed.
        info: What is known of an uploaded dataset, and of user code.
        keep: Stores the files that a new job comes with, given its id.
        sent: The spec as it was sent, by which replays are told; None if that is ``spec``.

    Returns:
        The answer, and whether it is a replay.

    Raises:
        IdempotencyConflictError: ``key`` was used with another body.
    """
    return _once(
        db,
        key,
        spec_hash(spec if sent is None else sent),
        lambda session: _insert(session, spec, arms, info, keep),
        render,
    )


def earlier_answer(db: Database, key: str, sent: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the answer that ``key`` stands for, whatever has become of what the job was made from; None if it is new.

    Raises:
        IdempotencyConflictError: ``key`` was used with another body.
    """
    with db.read() as session:
        earlier = session.get(IdempotencyKey, key)
    return None if earlier is None else _same(earlier, spec_hash(sent))


def _same(earlier: IdempotencyKey, digest: str) -> dict[str, Any]:
    if earlier.spec_sha256 != digest:
        raise IdempotencyConflictError(f"Idempotency-Key {earlier.key!r} was used before, with another body")
    return earlier.answer


def extend(
    db: Database,
    job_id: str,
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    more: Mapping[str, Any],
    key: str | None,
    render: Callable[[Session, Job], dict[str, Any]],
) -> tuple[dict[str, Any], bool]:
    """Queue a succeeded job again with a larger spec. Its recommendation stays until there is another one.

    Args:
        db: The ledger's database.
        job_id: The job.
        change: From the job's spec to the larger one.
        more: What is added, for the event and for telling replays.
        key: The Idempotency-Key; without one, sending again adds again once the job has succeeded.
        render: Turns the job into the answer.

    Returns:
        The answer, and whether it is a replay.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has not succeeded.
        IdempotencyConflictError: ``key`` was used with another body.
    """

    def act(session: Session) -> Job:
        job = require_job(session, job_id, lock=True)
        if job.state != JobState.SUCCEEDED:
            raise ConflictError(f"job {job_id} is {job.state}: only a job that has succeeded can be extended")
        for dataset_id in datasets.uploaded_by(job.spec):
            datasets.lock(session, dataset_id)
        job.spec = dict(change(job.spec))
        job.state, job.finished_at, job.cancel_requested, job.looks = JobState.QUEUED, None, False, job.looks + 1
        if more.get("trials") or more.get("max_seconds"):
            session.execute(update(Arm).where(Arm.job_id == job_id).values(state=ArmState.QUEUED))
        record(session, job_id, "extended", **more)
        session.flush()
        return job

    if key is not None:
        return _once(db, key, spec_hash({"job": job_id, "more": dict(more)}), act, render)
    with db.write() as session:
        return render(session, act(session)), False


def _once(
    db: Database,
    key: str,
    digest: str,
    act: Callable[[Session], Job],
    render: Callable[[Session, Job], dict[str, Any]],
) -> tuple[dict[str, Any], bool]:
    """Do what a request asks for unless ``key`` stands for it already; return the answer and whether it is a replay."""
    try:
        with db.write() as session:
            earlier = session.get(IdempotencyKey, key)
            if earlier is None:
                job = act(session)
                answer = render(session, job)
                session.add(IdempotencyKey(key=key, spec_sha256=digest, job_id=job.id, answer=answer))
                return answer, False
    except IntegrityError:  # another request with the same key was a moment faster
        with db.read() as session:
            earlier = session.get_one(IdempotencyKey, key)
    return _same(earlier, digest), True


def _insert(
    session: Session,
    spec: Mapping[str, Any],
    arms: Sequence[str],
    info: Mapping[str, Any] | None,
    keep: Callable[[str], None] | None,
) -> Job:
    for dataset_id in datasets.uploaded_by(spec):
        datasets.lock(session, dataset_id)
    job = Job(
        id=f"job-{secrets.token_hex(8)}",
        name=spec["name"],
        dataset=datasets.label_of(spec),
        dataset_info=None if info is None else dict(info),
        spec=dict(spec),
        created_at=now(),
    )
    session.add(job)
    session.flush()
    session.add_all(Arm(job_id=job.id, name=name, position=i) for i, name in enumerate(arms))
    record(session, job.id, "submitted")
    if keep is not None:
        keep(job.id)
    return job


def cancel(db: Database, job_id: str) -> Job:
    """Cancel a job: at once when no worker is on it, otherwise by asking its worker.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has ended.
    """
    with db.write() as session:
        job = require_job(session, job_id, lock=True)
        if job.state in ENDED_JOB:
            raise ConflictError(f"job {job_id} has ended: it is {job.state}")
        expired = session.scalar(select(Job.lease_expires_s < epoch_now()).where(Job.id == job_id))
        if job.state == JobState.QUEUED or expired:
            job.lease_token += 1  # a worker that only seemed to be gone writes nothing more
            close(session, job, JobState.CANCELLED)
        elif not job.cancel_requested:
            record(session, job_id, "cancel_requested")
        job.cancel_requested = True
        return job


def close(session: Session, job: Job, state: JobState, cause: str | None = None) -> None:
    """End a job in the transaction of ``session``; trials and runs that are still open end with it."""
    job.state, job.cause, job.finished_at = state, cause, now()
    job.lease_worker = job.lease_expires_s = None
    record(session, job.id, state, **({"cause": cause} if cause else {}))
    values: dict[str, Any] = {"state": TrialState.PRUNED, "cause": f"the job was {state} before the run was over"}
    unfinished = (Arm.job_id == job.id, Arm.state != ArmState.COMPLETE)
    session.execute(update(Arm).where(*unfinished).values(state=ArmState.STOPPED))
    for kind, ended in ((Trial, values | {"finished_at": now()}), (ConfirmRun, values)):
        session.execute(update(kind).where(kind.job_id == job.id, kind.state.in_(LIVE_TRIAL)).values(ended))


def close_for_deletion(db: Database, job_id: str) -> None:
    """Make sure that no worker has the job or can take it, so that what belongs to it can be removed.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: A worker is on it.
    """
    with db.write() as session:
        job = require_job(session, job_id, lock=True)
        if job.state in ACTIVE_JOB:
            raise ConflictError(f"job {job_id} is {job.state}: cancel it first")
        if job.state == JobState.QUEUED:
            close(session, job, JobState.CANCELLED)


def delete_row(db: Database, job_id: str) -> None:
    """Delete the job's rows in every table."""
    with db.write() as session:
        session.execute(delete(Job).where(Job.id == job_id, Job.state.in_(ENDED_JOB)))
