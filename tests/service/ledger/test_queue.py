# Whose turn it is: jobs are taken by priority, then in turn between their owners; and the places that users are told.
from __future__ import annotations

import random
import time

import pytest

from service.db.models import Job
from service.db.session import Database
from service.ledger import jobs, queries, runs
from service.ledger.runs import RunLog
from service.states import JobState
from tests.service.conftest import Submit, get_job

LEASE_S = 300.0


def queue(db: Database, submit: Submit, owner: str, count: int = 1, priority: int = 0) -> list[str]:
    """Queue jobs of an owner. Rows are copied, which is faster than to submit each."""
    first = submit(priority=priority)
    with db.write() as session:
        row = session.query(Job).filter_by(id=first).one()
        row.owner = owner
        more = [f"job-{owner}-{first[-4:]}-{index}" for index in range(count - 1)]
        shared = {"name": row.name, "dataset": row.dataset, "spec": row.spec, "owner": owner, "priority": priority}
        session.add_all([Job(id=job_id, **shared) for job_id in more])
    return [first, *more]


def take(db: Database) -> RunLog:
    time.sleep(0.003)  # the clock of a database tells milliseconds, and two claims in the same one have no order
    taken = runs.claim(db, "worker", LEASE_S)
    assert taken is not None
    return taken


def end(log: RunLog) -> str:
    log.end(JobState.FAILED, "of the tests")
    return log.job_id


def places(db: Database, ids: list[str]) -> dict[str, int]:
    with db.read() as session:
        return queries.queue_positions(session, session.query(Job).filter(Job.id.in_(ids)).all())


def test_jobs_of_one_owner_and_priority_are_taken_in_the_order_in_which_they_came(db: Database, submit: Submit) -> None:
    ids = [submit() for _ in range(3)]
    assert [take(db).job_id for _ in ids] == ids


def test_a_higher_priority_goes_first(db: Database, submit: Submit) -> None:
    low, middle, high = submit(priority=-5), submit(), submit(priority=5)
    assert places(db, [low, middle, high]) == {high: 1, middle: 2, low: 3}
    assert [take(db).job_id for _ in range(3)] == [high, middle, low]


def test_five_hundred_jobs_of_one_owner_delay_the_first_of_another_by_one_claim_at_most(
    db: Database, submit: Submit
) -> None:
    many = queue(db, submit, "many", 500)
    assert end(take(db)) == many[0]
    (one,) = queue(db, submit, "one")
    assert places(db, [one, many[1], many[-1]]) == {one: 1, many[1]: 2, many[-1]: 500}
    assert take(db).job_id == one


@pytest.mark.parametrize("workers", [1, 3])
def test_owners_take_turns(db: Database, submit: Submit, workers: int) -> None:
    owner_of = {job_id: owner for owner in ("a", "b") for job_id in queue(db, submit, owner, 12)}
    (late,) = queue(db, submit, "c")
    running: list[RunLog] = []
    taken = []
    for _ in range(13):
        if len(running) == workers:
            end(running.pop(0))
        running.append(take(db))
        taken.append(owner_of.get(running[-1].job_id, "c"))
    assert "c" in taken[:3]
    assert late not in owner_of
    turns = [owner for owner in taken if owner != "c"]
    assert turns == ["a", "b"] * 6


def test_an_owner_with_long_jobs_does_not_take_every_worker(db: Database, submit: Submit) -> None:
    queue(db, submit, "long", 5)
    long_jobs = [take(db) for _ in range(2)]
    short = queue(db, submit, "short", 4)
    assert [end(take(db)) for _ in range(3)] == short[:3]
    for log in long_jobs:
        end(log)
    assert get_job(db, take(db).job_id).owner == "long"  # now neither runs a job, and this one was served longer ago
    assert take(db).job_id == short[3]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seed", range(8))
def test_the_places_are_the_order_in_which_the_jobs_are_taken(db: Database, submit: Submit, seed: int) -> None:
    draw = random.Random(seed)
    for owner in draw.choices("abc", k=6):
        queue(db, submit, owner)
    for _ in range(draw.randint(0, 4)):
        log = take(db)
        if draw.random() < 0.5:
            end(log)
    with db.read() as session:
        waiting = [row.id for row in session.query(Job).filter_by(state=JobState.QUEUED)]
    waiting += [job_id for owner in draw.choices("abcd", k=9) for job_id in queue(db, submit, owner)]
    told = places(db, waiting)
    assert sorted(told.values()) == list(range(1, len(waiting) + 1))
    assert [take(db).job_id for _ in waiting] == sorted(waiting, key=lambda job_id: told[job_id])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_only_waiting_jobs_have_a_place(db: Database, submit: Submit) -> None:
    running, paused, queued = (submit() for _ in range(3))
    assert take(db).job_id == running
    jobs.pause(db, paused)
    assert places(db, [running, paused, queued]) == {queued: 1}


@pytest.mark.parametrize("modules", [["mine"], ["other", "mine.loops"]])
def test_a_job_that_needs_a_module_is_left_to_a_worker_that_allows_it(
    db: Database, submit: Submit, modules: list[str]
) -> None:
    first, second = submit(), submit()
    with db.write() as session:
        jobs.require_job(session, first).needs_module = "mine.loops"
    for other in ([], ["loops"], ["mine.loop"], ["min_", "m%"]):
        assert queries_next(db, other) == second
    assert queries_next(db, modules) == first
    assert take(db).job_id == second
    assert runs.claim(db, "another", LEASE_S) is None
    taken = runs.claim(db, "its own", LEASE_S, modules)
    assert taken is not None
    assert taken.job_id == first
    taken.release()
    assert runs.claim(db, "another", LEASE_S) is None
    assert end(runs.claim(db, "its own", LEASE_S, modules) or taken) == first
    with db.write() as session:
        jobs.retry(session, jobs.require_job(session, first))
    assert take(db).job_id == first, "that its module is not allowed is then the cause why it fails"


def queries_next(db: Database, modules: list[str]) -> str:
    with db.write() as session:
        seq = session.scalar(queries.next_in_queue(modules))
        return session.query(Job).filter_by(seq=seq).one().id
