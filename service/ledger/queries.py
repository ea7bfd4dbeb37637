"""Reads from the ledger: pages of jobs, trials and events, the counts of a job, confirmation runs, the result."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    outerjoin,
    select,
    union_all,
)
from sqlalchemy.orm import Session

from service.db.models import (
    LIVE_TRIALS,
    Arm,
    ConfirmRun,
    Event,
    Job,
    JobTag,
    RecommendationRow,
    Trial,
    TrialPoint,
    utc_now,
)
from service.db.session import EVERY_PROJECT, epoch_now
from service.errors import ConflictError, NotFoundError, OtherVersionError
from service.result.job_result import JobResult
from service.states import ACTIVE_JOB, ENDED_JOB, ENDED_TRIAL, JobState, TrialState, count_ended
from service.training.run import CurvePoint, TrivialScores


class ArmSummary(NamedTuple):
    """An arm with what its trials add up to."""

    arm: Arm
    counts: dict[TrialState, int]
    best: Trial | None


class ConfirmCounts(NamedTuple):
    """How many confirmation runs have ended, of how many planned."""

    done: int
    planned: int


class RunCounts(NamedTuple):
    """How many trials of a job have ended, and how far its confirmation runs are."""

    trials: int
    confirm: ConfirmCounts


def jobs_page(
    session: Session, limit: int, before: int | None, tags: Iterable[str] = (), **equals: str | None
) -> Sequence[Job]:
    """Return jobs, the newest first, with ``seq`` below ``before`` and every tag; ``equals`` filters columns."""
    tagged = [Job.id.in_(select(JobTag.job_id).where(JobTag.tag == tag)) for tag in tags]
    query = select(Job).where(*_equal(Job, equals), *tagged).order_by(Job.seq.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(Job.seq < before)).all()


def is_free() -> ColumnElement[bool]:
    """Return whether a worker may take a job: it is queued, or its worker was silent for longer than its lease."""
    return or_(Job.state == JobState.QUEUED, and_(Job.state.in_(ACTIVE_JOB), Job.lease_expires_s < epoch_now()))


def _shares() -> tuple[FromClause, ColumnElement[int], ColumnElement[float]]:
    """Return the jobs joined with what their owners have: how many jobs run, and when the last was claimed, or 0."""
    running = and_(Job.state.in_(ACTIVE_JOB), Job.lease_expires_s >= epoch_now())
    runs = select(Job.owner, func.count().label("count")).where(running).group_by(Job.owner).subquery()
    last = select(Job.owner, func.max(Job.claimed_s).label("claimed")).group_by(Job.owner).subquery()
    joined = outerjoin(Job, runs, runs.c.owner == Job.owner).outerjoin(last, last.c.owner == Job.owner)
    return joined, func.coalesce(runs.c.count, 0), func.coalesce(last.c.claimed, 0.0)


def next_in_queue(modules: Iterable[str] = ()) -> Select[int]:
    """Select ``seq`` of the job that a worker takes next, and lock its row. ``modules`` are those that it allows.

    The highest priority comes first; then the owner with the fewest running jobs; then the owner who has waited longest
    since a job of theirs was claimed; then the oldest job.
    """
    joined, running, claimed = _shares()
    turns = (Job.priority.desc(), running, claimed, Job.seq)
    needed = Job.needs_module
    allowed = (or_(needed == module, needed.startswith(f"{module}.", autoescape=True)) for module in modules)
    may_take = or_(needed.is_(None), *allowed)
    free = select(Job.seq).select_from(joined).where(is_free(), may_take).order_by(*turns).limit(1)
    return free.with_for_update(of=Job, skip_locked=True)


def must_give_way(session: Session, job_id: str, turn_s: float) -> bool:
    """Return whether a job that runs should go back to the queue, because an owner waits who was not served for long.

    That owner runs no job, and no job of theirs has run for ``turn_s`` seconds. The job that was claimed first gives
    way, so that one worker changes and not all of them. No job gives way to one that needs a certain worker.

    Cost: a few milliseconds with 10,000 jobs that wait; a worker asks several times a second.
    """
    mine = session.execute(select(Job.owner, Job.priority).where(Job.id == job_id)).one_or_none()
    if mine is None:
        return False
    others = (Job.owner != mine.owner, Job.priority >= mine.priority)
    waits = (Job.state == JobState.QUEUED, Job.needs_module.is_(None), *others)
    waiting = select(Job.owner, func.max(Job.priority).label("priority")).where(*waits).group_by(Job.owner).subquery().c
    runs = (Job.state.in_(ACTIVE_JOB), Job.lease_expires_s >= epoch_now())
    served = select(func.max(Job.claimed_s)).where(Job.owner == waiting.owner).scalar_subquery()
    neglected = (
        func.coalesce(served, 0.0) < epoch_now() - turn_s,
        ~exists().where(Job.owner == waiting.owner, *runs),
    )
    highest = session.scalar(select(func.max(waiting.priority)).where(*neglected))
    if highest is None:
        return False
    first = select(Job.id).where(*runs, Job.priority <= highest).order_by(Job.claimed_s, Job.seq).limit(1)
    return session.scalar(first) == job_id


def queue_positions(session: Session, jobs: Iterable[Job]) -> dict[str, int]:
    """Return the places in the queue of those jobs that are queued, if the running jobs go on meanwhile; 1 is next.

    Of two owners who wait with several priorities, it may tell a place too many or too few.

    Cost: nothing if none is queued; otherwise it sorts the jobs that wait.
    """
    job_ids = [job.id for job in jobs if job.state == JobState.QUEUED]
    if not job_ids:
        return {}
    everyone = {EVERY_PROJECT: True}  # a place in the queue counts the jobs of others, too
    found = session.execute(_places_in_queue(), {"job_ids": job_ids}, execution_options=everyone)
    return {job_id: place for job_id, place in found}  # noqa: C416 - rows are not tuples to mypy


@cache
def _places_in_queue() -> Select[str, int]:
    """Return the query for the places of jobs; it takes longer to write than a short queue takes to sort."""
    joined, running, claimed = _shares()
    nth = func.row_number().over(partition_by=Job.owner, order_by=(Job.priority.desc(), Job.seq))
    first = func.min(Job.seq).over(partition_by=(Job.owner, Job.priority))  # keeps the order of owners of equal rank
    columns = (Job.id, Job.priority, (running + nth).label("round"), nth.label("nth"), claimed.label("claimed"))
    waiting = select(*columns, first.label("first")).select_from(joined).where(is_free()).subquery().c
    turns = (waiting.priority.desc(), waiting.round, waiting.nth, waiting.claimed, waiting.first)
    placed = select(waiting.id, func.row_number().over(order_by=turns).label("place")).subquery().c
    return select(placed.id, placed.place).where(placed.id.in_(bindparam("job_ids", expanding=True)))


def trials_page(session: Session, job_id: str, limit: int, after: int | None, **equals: str | None) -> Sequence[Trial]:
    """Return trials of a job by number, above ``after``; ``equals`` filters columns."""
    query = select(Trial).where(Trial.job_id == job_id, *_equal(Trial, equals)).order_by(Trial.number).limit(limit)
    return session.scalars(query if after is None else query.where(Trial.number > after)).all()


def trial_values(session: Session, job_id: str) -> list[tuple[str, float | None]]:
    """Return arm and value of each trial that has ended, by number; None for one that diverged or failed."""
    value = case((_is_judged(), Trial.value))
    query = select(Trial.arm, value).where(Trial.job_id == job_id, Trial.state.in_(ENDED_TRIAL))
    return [(arm, value) for arm, value in session.execute(query.order_by(Trial.number))]


def best_trials(session: Session, job_id: str, limit: int, **equals: str | None) -> Sequence[Trial]:
    """Return the complete or pruned trials of a job with the lowest values; ``equals`` filters columns."""
    query = select(Trial).where(Trial.job_id == job_id, _is_judged(), *_equal(Trial, equals))
    return session.scalars(query.order_by(Trial.value, Trial.number).limit(limit)).all()


def _is_judged() -> ColumnElement[bool]:
    """Return whether a trial may be called good: one that failed or runs has only the value that it had reached."""
    return Trial.state.in_((TrialState.COMPLETE, TrialState.PRUNED))


def events_page(session: Session, job_id: str, limit: int, after: int | None) -> Sequence[Event]:
    """Return events of a job, the oldest first, with an id above ``after``."""
    query = select(Event).where(Event.job_id == job_id).order_by(Event.id).limit(limit)
    return session.scalars(query if after is None else query.where(Event.id > after)).all()


def newest_event(session: Session, job_id: str) -> int:
    """Return the id of the newest event of a job; 0 without one."""
    return session.scalar(select(func.max(Event.id)).where(Event.job_id == job_id)) or 0


def _equal(table: type[Job | Trial], values: Mapping[str, str | None]) -> list[ColumnElement[bool]]:
    return [getattr(table, name) == value for name, value in values.items() if value is not None]


def arm_summaries(session: Session, job_id: str) -> list[ArmSummary]:
    """Return the arms of a job in the order in which they run."""
    arms = session.scalars(select(Arm).where(Arm.job_id == job_id).order_by(Arm.position)).all()
    of_job = Trial.job_id == job_id
    counts = session.execute(
        select(Trial.arm, Trial.state, func.count()).where(of_job).group_by(Trial.arm, Trial.state)
    )
    by_arm: dict[str, dict[TrialState, int]] = {}
    for name, state, count in counts:
        by_arm.setdefault(name, {})[TrialState(state)] = count
    best = _best(session, job_id, [arm.name for arm in arms])
    return [ArmSummary(arm, by_arm.get(arm.name, {}), best.get(arm.name)) for arm in arms]


def _best(session: Session, job_id: str, arms: Sequence[str]) -> dict[str, Trial]:
    """Return the best complete trial of each arm that has one, found with one query."""
    if not arms:
        return {}
    complete = select(Trial.id).where(Trial.job_id == job_id, Trial.state == TrialState.COMPLETE)
    first = complete.order_by(Trial.value, Trial.val_loss.nulls_last(), Trial.number).limit(1)
    ids = union_all(*(select(first.where(Trial.arm == arm).subquery()) for arm in arms))
    return {trial.arm: trial for trial in session.scalars(select(Trial).where(Trial.id.in_(ids)))}


def confirm_progress(session: Session, job_id: str) -> ConfirmCounts:
    """Return how far the confirmation runs of a job are."""
    runs = _by_state(session, ConfirmRun, [job_id])[job_id]
    return ConfirmCounts(count_ended(runs), sum(runs.values()))


def run_counts(session: Session, job_ids: Sequence[str]) -> dict[str, RunCounts]:
    """Return how far each of some jobs is."""
    trials, runs = (_by_state(session, table, job_ids) for table in (Trial, ConfirmRun))
    return {
        job_id: RunCounts(
            count_ended(trials[job_id]), ConfirmCounts(count_ended(runs[job_id]), sum(runs[job_id].values()))
        )
        for job_id in job_ids
    }


class Standing(NamedTuple):
    """How the service stands, for monitoring.

    ``queue_age_s`` is the time since the job was queued that has been queued for longest, 0 if none is.
    ``without_worker`` counts the running jobs whose lease has run out.
    """

    jobs: dict[str, int]
    live_trials: dict[str, int]
    queue_age_s: float
    without_worker: int


def standing(session: Session) -> Standing:
    """Return how the service stands. Of the trials, it reads only those that have not ended."""
    jobs = session.execute(select(Job.state, func.count()).group_by(Job.state))
    trials = session.execute(select(Trial.state, func.count()).where(LIVE_TRIALS).group_by(Trial.state))
    oldest = session.scalar(select(func.min(Job.queued_at)).where(Job.state == JobState.QUEUED))
    silent = (Job.state.in_(ACTIVE_JOB), Job.lease_expires_s < epoch_now())
    return Standing(
        {state: count for state, count in jobs},  # noqa: C416 - rows are not tuples to mypy
        {state: count for state, count in trials},  # noqa: C416
        0.0 if oldest is None else max(0.0, (utc_now() - oldest).total_seconds()),
        session.scalar(select(func.count()).select_from(Job).where(*silent)) or 0,
    )


def _by_state(
    session: Session, table: type[Trial | ConfirmRun], job_ids: Sequence[str]
) -> dict[str, dict[TrialState, int]]:
    """Return how many rows of each job are in each state."""
    counts = select(table.job_id, table.state, func.count()).where(table.job_id.in_(job_ids))
    found: dict[str, dict[TrialState, int]] = {job_id: {} for job_id in job_ids}
    for job_id, state, count in session.execute(counts.group_by(table.job_id, table.state)):
        found[job_id][TrialState(state)] = count
    return found


class Answer(NamedTuple):
    """The verdict of a job, and the improvement as a share of the baseline's mean if there is one."""

    verdict: str
    improvement: float | None


def answers(session: Session, job_ids: Sequence[str]) -> dict[str, Answer]:
    """Return the answer of each of some jobs that has one."""
    improvement = RecommendationRow.data["statistics"]["relative_improvement"].as_float()
    query = select(RecommendationRow.job_id, RecommendationRow.verdict, improvement)
    rows = session.execute(query.where(RecommendationRow.job_id.in_(job_ids)))
    return {job_id: Answer(verdict, share) for job_id, verdict, share in rows}


def is_judged_anew(session: Session, job_id: str) -> bool:
    """Return whether a job has a verdict, and no runs of ``confirm`` were planned since it succeeded last."""
    if session.get(RecommendationRow, job_id) is None:
        return False
    kinds = ("succeeded", "runs_planned")
    wanted = select(Event.kind, Event.data).where(Event.job_id == job_id, Event.kind.in_(kinds))
    events = session.execute(wanted.order_by(Event.id.desc()))
    newest = itertools.takewhile(lambda event: event.kind == "runs_planned", events)
    return all(event.data["phase"] != "confirm" for event in newest)


def confirm_runs(session: Session, job_id: str, phase: str = "confirm") -> Sequence[ConfirmRun]:
    """Return the runs of a phase of a job, in the order in which they were planned."""
    wanted = select(ConfirmRun).where(ConfirmRun.job_id == job_id, ConfirmRun.phase == phase)
    return session.scalars(wanted.order_by(ConfirmRun.id)).all()


def has_failed_runs(session: Session, job_id: str) -> bool:
    """Tell whether a confirmation run of a job has failed."""
    return TrialState.FAILED in _by_state(session, ConfirmRun, [job_id])[job_id]


def stored_curve(points: Sequence[CurvePoint]) -> list[list[Any]]:
    """Return the learning curve of a confirmation run as JSON."""
    return [list(point) for point in points]


def curve_of(run: ConfirmRun) -> list[CurvePoint]:
    """Return the learning curve of a confirmation run.

    Raises:
        OtherVersionError: Another version of the service stored points that this one cannot read.
    """
    try:
        points = [CurvePoint(*point) for point in run.curve]
        return [point._replace(trivial=point.trivial and TrivialScores(*point.trivial)) for point in points]
    except TypeError as error:
        raise OtherVersionError("the learning curve of a confirmation run", error) from error


def trial(session: Session, job_id: str, number: int) -> tuple[Trial, Sequence[TrialPoint]]:
    """Return one trial with its learning curve.

    Raises:
        NotFoundError: The job has no trial of that number.
    """
    row = session.scalars(select(Trial).where(Trial.job_id == job_id, Trial.number == number)).one_or_none()
    if row is None:
        raise NotFoundError(f"job {job_id} has no trial {number}")
    points = select(TrialPoint).where(TrialPoint.trial_id == row.id).order_by(TrialPoint.step)
    return row, session.scalars(points).all()


def result(session: Session, job: Job) -> JobResult:
    """Return the result of a job.

    Raises:
        ConflictError: The job has not ended yet.
        NotFoundError: The job ended without one.
        OtherVersionError: Another version of the service stored something that this one cannot read.
    """
    if job.state not in ENDED_JOB:  # a job that was extended has an earlier one, which is about to be replaced
        raise ConflictError(f"job {job.id} is {job.state}: its recommendation comes when it has succeeded")
    row = session.get(RecommendationRow, job.id)
    if row is not None:
        return JobResult.from_json(row.data)
    because = f": {job.cause}" if job.state == JobState.FAILED else ""
    ended = "was cancelled" if job.state == JobState.CANCELLED else str(job.state)
    raise NotFoundError(f"job {job.id} has no recommendation, it {ended}{because}")
