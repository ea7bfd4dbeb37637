"""Jobs as the API changes them: queued, stopped, paused, resumed, extended, cancelled, retried and deleted.

A job that a worker owns is left alone, except that its worker can be asked for something.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from pydantic import JsonValue
from sqlalchemy import ColumnElement, CursorResult, Update, and_, delete, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import logs
from service.db.models import Arm, ConfirmRun, Event, Job, JobTag, Notification, RecommendationRow, Trial, utc_now
from service.db.session import Database, epoch_now
from service.errors import ConflictError, NotFoundError
from service.ledger import datasets, totals
from service.ledger.totals import Count, Name
from service.spec.dataset_info import DatasetInfo
from service.spec.job import ExtendSpec, JobSpec
from service.states import ACTIVE_JOB, ENDED_JOB, LIVE_TRIAL, VERBS, ArmState, JobState, TrialState


def new_id() -> str:
    """Return an id for a job that will be queued. Its files are stored under it before a worker can take the job."""
    return f"job-{secrets.token_hex(8)}"


def record_event(session: Session, job_id: str, kind: str, **data: JsonValue) -> None:
    """Add an event to the history of a job, in the transaction of the change that it tells of."""
    session.add(Event(job_id=job_id, kind=kind, data=data))


def find_job(session: Session, job_id: str, *, lock: bool = False) -> Job | None:
    """Return the job's row, locked until the transaction has ended if ``lock``; None if there is none."""
    wanted = select(Job).where(Job.id == job_id)
    return session.scalars(wanted.with_for_update() if lock else wanted).one_or_none()


def require_job(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """Return the job's row, like :func:`find_job`.

    Raises:
        NotFoundError: There is none.
    """
    job = find_job(session, job_id, lock=lock)
    if job is None:
        raise NotFoundError(f"there is no job {job_id!r}")
    return job


def add(
    session: Session,
    spec: JobSpec,
    arms: Sequence[str],
    info: DatasetInfo | None = None,
    job_id: str | None = None,
    needs_module: str | None = None,
) -> Job:
    """Store a queued job with its arms.

    Args:
        session: The transaction.
        spec: The whole spec.
        arms: Names of the arms, in the order in which they will run.
        info: Facts about uploaded data and user code; None if the job has neither.
        job_id: An id from :func:`new_id`; None for a job without files.
        needs_module: Module that a worker must allow to take the job; None lets every worker take it.

    Raises:
        ConflictError: An uploaded dataset of the job was deleted.
    """
    datasets.lock_those_of(session, spec)
    job = Job(
        id=job_id or new_id(),
        name=spec.name,
        dataset=datasets.label_of(spec),
        dataset_info=None if info is None else asdict(info),
        spec=spec.to_json(),
        priority=spec.priority,
        request_id=logs.request_id(),
        needs_module=needs_module,
    )
    session.add(job)
    session.flush()
    session.add_all(JobTag(job_id=job.id, tag=tag) for tag in spec.tags)
    session.add_all(Arm(job_id=job.id, name=name, position=i) for i, name in enumerate(arms))
    record_event(session, job.id, "submitted")
    return job


def is_stored(db: Database, job_id: str) -> bool:
    """Tell whether a job was stored, after its connection broke at the commit.

    The server may still be at that commit, and nobody can see its row until it ends. A row with the same id waits for
    it, and is taken back.
    """
    try:
        with db.write() as session:
            row = Job(id=job_id, name="", dataset="", spec={})
            session.add(row)
            session.flush()
            session.delete(row)
    except IntegrityError:
        return True
    return False


def require_job_for(verb: str, session: Session, job_id: str) -> Job:
    """Return the row of a job whose state allows ``verb``, locked until the transaction has ended.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: Its state does not allow it, or it is being deleted.
    """
    job, rule = require_job(session, job_id, lock=True), VERBS[verb]
    if job.delete_requested and verb != "delete":
        raise ConflictError(f"job {job_id} is being deleted. If that was cut short, delete it again")
    if job.state not in (*rule.allowed, *rule.already):
        raise ConflictError(f"job {job_id} is {job.state}: {rule.refusal}")
    return job


def queue_again(session: Session, job: Job, spec: JobSpec, added: ExtendSpec) -> None:
    """Queue a job that has succeeded with a larger spec. Its recommendation stays until there is a new one.

    Failed confirmation runs are deleted, so that its worker runs them again. Diverged ones would only diverge again.

    ``session`` holds the lock of the job's row; ``added`` says what is larger in the spec.

    Raises:
        ConflictError: An uploaded dataset of the job was deleted.
    """
    datasets.lock_those_of(session, spec)
    job.spec = spec.to_json()
    job.state, job.finished_at, job.cancel_requested = JobState.QUEUED, None, False
    job.request_id, job.needs_module = logs.request_id(), None
    if added.trials or added.max_seconds:
        job.stop_requested, job.counted_trials = False, None  # the arms are searched to their whole budget
        session.execute(update(Arm).where(Arm.job_id == job.id).values(state=ArmState.QUEUED))
    session.execute(delete(ConfirmRun).where(ConfirmRun.job_id == job.id, ConfirmRun.state == TrialState.FAILED))
    record_event(session, job.id, "extended", **added.model_dump())
    session.flush()


def retry(session: Session, job: Job) -> None:
    """Queue a job that has failed or was cancelled, unless that has happened already. What has ended is kept.

    Trials and runs that the end of the job cut off run again. So do failed runs, and the failed trials of an arm that
    is not complete or has completed no trial: the others have been compared without them.

    Raises:
        ConflictError: The job is being cancelled, or an uploaded dataset of it was deleted.
    """
    if job.state in VERBS["retry"].already:
        _refuse_while_cancelled(job)
        return
    datasets.lock_those_of(session, JobSpec.from_json(job.spec))
    job.state, job.cause, job.finished_at, job.cancel_requested = JobState.QUEUED, None, None, False
    job.request_id, job.needs_module = logs.request_id(), None
    completed = select(Trial.arm).where(Trial.job_id == job.id, Trial.state == TrialState.COMPLETE)
    is_open = or_(Arm.state != ArmState.COMPLETE, Arm.name.not_in(completed))
    session.execute(update(Arm).where(Arm.job_id == job.id, is_open).values(state=ArmState.QUEUED))
    queued = select(Arm.name).where(Arm.job_id == job.id, Arm.state == ArmState.QUEUED)
    again: dict[type[Trial | ConfirmRun], ColumnElement[bool]] = {
        Trial: and_(Trial.state == TrialState.FAILED, Trial.arm.in_(queued)),
        ConfirmRun: ConfirmRun.state == TrialState.FAILED,
    }
    fresh = {"state": TrialState.QUEUED, "cause": None, "furthest_step": 0, "losses": 0, "worker_deaths": 0}
    for table, failed in again.items():
        was_cut_off = table.cause.in_([_cut_off_by(state) for state in ENDED_JOB])
        more = {"value": None, "finished_at": None} if table is Trial else {}
        session.execute(update(table).where(table.job_id == job.id, or_(failed, was_cut_off)).values(**fresh, **more))
    record_event(session, job.id, "retried")
    session.flush()


def _cut_off_by(state: JobState) -> str:
    """Return the cause of a trial or run that was open when its job ended in a state."""
    return f"the job was {state} before the run was over"


def cancel(db: Database, job_id: str) -> Job:
    """Cancel a job: at once if no worker runs it, otherwise by asking its worker. A cancelled one is left as it is.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has ended otherwise.
    """
    with db.write() as session:
        job = require_job_for("cancel", session, job_id)
        if job.state in VERBS["cancel"].already:
            return job
        if _take_from_worker(session, job):
            close(session, job, JobState.CANCELLED)
        elif not job.cancel_requested:
            record_event(session, job_id, "cancel_requested")
        job.cancel_requested = True
        return job


def pause(db: Database, job_id: str) -> None:
    """Pause a job: at once if no worker runs it, otherwise by asking its worker. A paused one is left as it is.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has ended or is being cancelled.
    """
    with db.write() as session:
        job = _require_uncancelled("pause", session, job_id)
        if job.state in VERBS["pause"].already:
            return
        if _take_from_worker(session, job):
            pause_now(session, job)
        elif not job.pause_requested:
            job.pause_requested = True
            record_event(session, job_id, "pause_requested")


def resume(db: Database, job_id: str) -> None:
    """Queue a paused job, or withdraw a pause that has not happened yet. Any other open job is left as it is.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has ended or is being cancelled.
    """
    with db.write() as session:
        _resume(session, _require_uncancelled("resume", session, job_id))


def stop(db: Database, job_id: str) -> None:
    """Ask for the verdict on the trials so far. A paused job is resumed for it; one that is judged is left as it is.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has ended or is being cancelled.
    """
    with db.write() as session:
        job = _require_uncancelled("stop", session, job_id)
        if job.state in VERBS["stop"].already:
            return
        request_stop(session, job)
        _resume(session, job)


def request_stop(session: Session, job: Job, **why: JsonValue) -> None:
    """Ask for the verdict on the trials so far, in the transaction of ``session``; once."""
    if not job.stop_requested:
        job.stop_requested = True
        record_event(session, job.id, "stop_requested", **why)


def pause_now(session: Session, job: Job) -> None:
    """Pause a job that no worker runs, in the transaction of ``session``."""
    job.state, job.pause_requested = JobState.PAUSED, False
    job.lease_worker = job.lease_expires_s = None
    record_event(session, job.id, JobState.PAUSED)


def _resume(session: Session, job: Job) -> None:
    if job.state == JobState.PAUSED or job.pause_requested:
        record_event(session, job.id, "resumed")
    if job.state == JobState.PAUSED:
        job.state = JobState.QUEUED
    job.pause_requested = False


def _require_uncancelled(verb: str, session: Session, job_id: str) -> Job:
    """Return the row of a job, like :func:`require_job_for`; refuse one that is being cancelled."""
    job = require_job_for(verb, session, job_id)
    _refuse_while_cancelled(job)
    return job


def _refuse_while_cancelled(job: Job) -> None:
    if job.cancel_requested:
        raise ConflictError(f"job {job.id} is {job.state} and is being cancelled: retry it when that has happened")


def _take_from_worker(session: Session, job: Job) -> bool:
    """Make sure that no worker has a job; return False if one holds its lease."""
    expired = session.scalar(select(Job.lease_expires_s < epoch_now()).where(Job.id == job.id))
    if job.state in ACTIVE_JOB and not expired:
        return False
    job.lease_token += 1  # a worker that only seemed to be gone writes nothing more
    return True


def close(session: Session, job: Job, state: JobState, cause: str | None = None) -> None:
    """End a job in the transaction of ``session``; trials and runs that are still open end with it."""
    job.state, job.cause, job.finished_at = state, cause, utc_now()
    job.lease_worker, job.lease_expires_s, job.pause_requested = None, None, False
    record_event(session, job.id, state, **({"cause": cause} if cause else {}))
    _notify(session, job)
    unfinished = (Arm.job_id == job.id, Arm.state != ArmState.COMPLETE)
    session.execute(update(Arm).where(*unfinished).values(state=ArmState.STOPPED))
    pruned, why = TrialState.PRUNED, _cut_off_by(state)
    trials = update(Trial).where(Trial.job_id == job.id, Trial.state.in_(LIVE_TRIAL))
    cut_trials = _count_changed(session, trials.values(state=pruned, cause=why, finished_at=utc_now()))
    runs = update(ConfirmRun).where(ConfirmRun.job_id == job.id, ConfirmRun.state.in_(LIVE_TRIAL))
    cut_runs = _count_changed(session, runs.values(state=pruned, cause=why))
    cut = [Count(Name.TRIALS_ENDED, pruned, cut_trials), Count(Name.RUNS_ENDED, pruned, cut_runs)]
    totals.add(session, job.id, [Count(Name.JOBS_ENDED, state), *(count for count in cut if count.value)])


def _count_changed(session: Session, statement: Update) -> int:
    changed: CursorResult[Any] = cast("CursorResult[Any]", session.execute(statement))
    return changed.rowcount


def _notify(session: Session, job: Job) -> None:
    """Store the message that the job has ended, if its spec asks for one. A worker sends it (running/notify.py)."""
    notify = job.spec.get("notify")
    if not isinstance(notify, dict):
        return
    row = session.get(RecommendationRow, job.id) if job.state == JobState.SUCCEEDED else None
    data: dict[str, JsonValue] = {
        "job": job.id,
        "name": job.name,
        "state": job.state,
        "cause": job.cause,
        "verdict": row.verdict if row else None,
        "reason": row.data["reason"] if row else None,
    }
    session.add(
        Notification(
            id=f"msg_{secrets.token_hex(16)}", job_id=job.id, url=str(notify["url"]), data=data, due_s=epoch_now()
        )
    )


def close_for_deletion(db: Database, job_id: str) -> None:
    """Make sure that no worker has the job or can get it, so that what belongs to it can be removed.

    From then on it can only be deleted, also if that is cut short.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: A worker runs it.
    """
    with db.write() as session:
        job = require_job_for("delete", session, job_id)
        job.delete_requested = True
        if job.state not in ENDED_JOB:
            close(session, job, JobState.CANCELLED)


def delete_row(db: Database, job_id: str) -> None:
    """Delete the job's rows in every table. Nothing happens if another deletion was faster.

    Raises:
        ConflictError: Another version of the service, which does not know of deletions, has queued it again.
    """
    with db.write() as session:
        session.execute(delete(Job).where(Job.id == job_id, Job.state.in_(ENDED_JOB)))
        if find_job(session, job_id) is not None:
            raise ConflictError(f"job {job_id} was queued again while it was deleted, and has lost its files")
