"""How far jobs are, for the list of jobs and for the page of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from service.db.models import Job
from service.db.session import Database
from service.errors import OtherVersionError
from service.ledger import queries
from service.ledger.jobs import require_job
from service.planning.plan import plan_of
from service.states import ACTIVE_JOB, JobState

LEAST_RUNS: Final = 3
"""Runs after which their time tells how long the others take."""


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


def standing_of(db: Database, job_id: str) -> tuple[float, float | None]:
    """Return how far a job that has not ended is, in percent, and the minutes that are left, if that can be told."""
    with db.read() as session:
        return _standing(require_job(session, job_id), queries.run_counts(session, [job_id])[job_id])


def _standing(row: Job, counts: queries.RunCounts | None) -> tuple[float, float | None]:
    """Return how far a job is, in percent, and the minutes that are left, guessed from its time with a worker."""
    if counts is None:
        return 0.0, None
    try:
        plan = plan_of(row.spec, row.dataset_info)
    except OtherVersionError:
        return 0.0, None
    trials, runs = counts.trials, counts.confirm
    if row.state != JobState.VERIFYING:  # a search may end early
        trials = sum(map(plan.trials, plan.arms))
    fresh = sum(plan.spec.confirm.seeds + sum(plan.race_rounds(arm)) for arm in plan.arms)
    done, planned = counts.trials + runs.done, trials + max(fresh, runs.planned)
    left = max(0, planned - done)
    minutes = row.worker_seconds / 60 * left / done if row.state in ACTIVE_JOB and done >= LEAST_RUNS else None
    return 100 * done // (done + left), minutes


def newest_event(db: Database, job_id: str) -> int:
    """Return the id of the newest event of a job, after which its page follows it; 0 without one."""
    with db.read() as session:
        return queries.newest_event(session, job_id)
