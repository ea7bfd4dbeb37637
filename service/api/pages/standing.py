"""How far jobs are, for the list of jobs and for the page of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from service.api.views import ConfirmView, JobView
from service.db.models import Job
from service.db.session import Database
from service.errors import OtherVersionError
from service.ledger import queries
from service.planning.plan import plan_of
from service.states import ACTIVE_JOB, JobState, count_ended


class Listed(NamedTuple):
    """A job of a list: its row, how far it is in percent, its answer if it has one, and its place in the queue."""

    job: Job
    progress: float
    minutes_left: float | None
    answer: queries.Answer | None
    place: int | None


def list_jobs(db: Database, limit: int, state: str | None, tags: Sequence[str]) -> list[Listed]:
    """Return the newest jobs of a state and with some tags, with a fixed number of queries."""
    with db.read() as session:
        rows = queries.jobs_page(session, limit, None, tags, state=state)
        counts = queries.run_counts(session, [row.id for row in rows if row.state in (*ACTIVE_JOB, JobState.PAUSED)])
        answers = queries.answers(session, [row.id for row in rows if row.state == JobState.SUCCEEDED])
        places = queries.queue_positions(session, rows)
    return [Listed(row, *_standing(row, counts.get(row.id)), answers.get(row.id), places.get(row.id)) for row in rows]


def _standing(row: Job, counts: queries.RunCounts | None) -> tuple[float, float | None]:
    """Return how far a job is in percent, and the minutes that are left."""
    if counts is None:
        return 0.0, None
    try:
        plan = plan_of(row.spec, row.dataset_info)
    except OtherVersionError:
        return 0.0, None
    cap = sum(map(plan.trials, plan.arms))
    left = _minutes_left(row.state, row.started_at, *_runs(counts.trials, cap, counts.confirm))
    return _share(counts.trials, cap, counts.confirm), left


def progress_of(job: JobView) -> float:
    """Return how far a job is, in percent."""
    done, cap = _trials(job)
    return 100.0 if job.state == JobState.SUCCEEDED else _share(done, cap, job.confirm)


def newest_event(db: Database, job_id: str) -> int:
    """Return the id of the newest event of a job, after which its page follows it; 0 without one."""
    with db.read() as session:
        return queries.newest_event(session, job_id)


def minutes_left(job: JobView) -> float | None:
    """Return a guess from the runs so far; None before there are some."""
    return _minutes_left(job.state, job.started_at, *_runs(*_trials(job), job.confirm))


def _minutes_left(state: str, started_at: datetime | None, done: int, planned: int) -> float | None:
    if started_at is None or state not in ACTIVE_JOB or done < 3:
        return None
    return (datetime.now(UTC) - started_at).total_seconds() / 60 * max(0, planned - done) / done


def _trials(job: JobView) -> tuple[int, int]:
    return sum(count_ended(arm.trials) for arm in job.arms), sum(arm.trials_cap for arm in job.arms)


def _share(trials: int, cap: int, confirm: queries.ConfirmCounts | ConfirmView) -> float:
    done, planned = _runs(trials, cap, confirm)
    return round(100 * min(1.0, done / planned)) if planned else 0.0


def _runs(trials: int, cap: int, confirm: queries.ConfirmCounts | ConfirmView) -> tuple[int, int]:
    """Return how many runs have ended, of how many; until the runs on fresh seeds are planned, as many as trials."""
    return trials + confirm.done, cap + (confirm.planned or cap)
