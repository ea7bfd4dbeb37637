# A job gives way to an owner who was not served for long, goes on later, and ends as if nothing had happened.
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from sqlalchemy import select, update

from service.db.models import Event, Job
from service.db.session import Database
from service.engines.local import LocalEngine
from service.ledger.runs import RunLog, claim
from service.settings import Settings
from service.states import ENDED_JOB, JobState, TrialState
from service.worker import Worker
from tests.service import faults
from tests.service.conftest import Submit, get_job, get_trials, running_in_optuna
from tests.service.test_worker import wait_for

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

TURN_S = 60.0


def queue(db: Database, submit: Submit, owner: str, priority: int = 0) -> str:
    job_id = submit(priority=priority)
    with db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(owner=owner))
    return job_id


def take(db: Database) -> RunLog:
    taken = claim(db, "worker", 300.0)
    assert taken is not None
    return taken


def test_a_job_gives_way_to_an_owner_who_was_never_served(db: Database, submit: Submit) -> None:
    for _ in range(3):
        queue(db, submit, "many")
    running = take(db)
    assert not running.must_give_way(TURN_S)
    waiting = queue(db, submit, "one")
    assert running.must_give_way(TURN_S)
    assert not running.release()
    assert take(db).job_id == waiting


def test_nobody_gives_way_to_whom_was_served_a_moment_ago(db: Database, submit: Submit) -> None:
    for owner in ("many", "one", "many"):
        queue(db, submit, owner)
    take(db).release()
    running = take(db)
    assert get_job(db, running.job_id).owner == "one"
    assert not running.must_give_way(TURN_S)
    with db.write() as session:
        session.execute(update(Job).values(claimed_s=Job.claimed_s - TURN_S))
    assert running.must_give_way(TURN_S)


def test_a_job_gives_way_neither_to_its_own_owner_nor_to_a_lower_priority(db: Database, submit: Submit) -> None:
    queue(db, submit, "many")
    running = take(db)
    queue(db, submit, "many", priority=5)
    queue(db, submit, "one", priority=-1)
    assert not running.must_give_way(TURN_S)
    queue(db, submit, "two", priority=1)
    assert running.must_give_way(TURN_S)


def test_an_owner_with_a_running_job_takes_no_other_worker(db: Database, submit: Submit) -> None:
    queue(db, submit, "many")
    first = take(db)
    queue(db, submit, "one")
    take(db)
    queue(db, submit, "one")
    assert not first.must_give_way(0.0)


def test_of_several_jobs_one_gives_way(db: Database, submit: Submit) -> None:
    for _ in range(3):
        queue(db, submit, "many")
    logs = [take(db) for _ in range(3)]
    with db.write() as session:
        for order, log in enumerate(logs):  # the clock of a database may tell two claims as one time
            session.execute(update(Job).where(Job.id == log.job_id).values(claimed_s=1000.0 + order))
    queue(db, submit, "one")
    assert [log.must_give_way(TURN_S) for log in logs] == [True, False, False]


def test_no_job_gives_way_to_one_that_this_worker_may_not_take(db: Database, submit: Submit) -> None:
    queue(db, submit, "many")
    running = take(db)
    waiting = queue(db, submit, "one")
    with db.write() as session:
        session.execute(update(Job).where(Job.id == waiting).values(needs_module="mine"))
    assert not running.must_give_way(TURN_S)


@sqlite_only
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_that_gave_way_ends_as_if_nothing_had_happened(
    db: Database,
    settings: Settings,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAULTS_DIR", str(tmp_path))
    engine = LocalEngine(faults.slow_search)
    worker = Worker(settings.model_copy(update={"turn_s": 0.5}), db, storage, {"optuna": engine})
    alone = queue(db, submit, "many")
    assert worker.run_next()
    first = queue(db, submit, "many")
    try:
        with ThreadPoolExecutor() as pool:
            running = pool.submit(worker.run_next)
            wait_for(lambda: bool(get_trials(db, first)))
            other = queue(db, submit, "one")
            assert running.result(timeout=100)
            assert get_job(db, first).state == JobState.QUEUED
            done = [trial.state for trial in get_trials(db, first)]
            assert 1 <= len(done) <= 2
            assert set(done) == {TrialState.COMPLETE}
            assert get_trials(db, other) == []
        while any(get_job(db, job_id).state not in ENDED_JOB for job_id in (first, other)):
            assert worker.run_next()
    finally:
        engine.close()
    wanted = [(t.params, t.value, t.attempts) for t in get_trials(db, alone)]
    for job_id in (first, other):
        assert get_job(db, job_id).state == JobState.SUCCEEDED
        assert [(t.params, t.value, t.attempts) for t in get_trials(db, job_id)] == wanted
    with db.read() as session:
        order = [event.job_id for event in session.scalars(select(Event).where(Event.kind == "claimed"))]
    assert order[:3] == [alone, first, other]
    assert order.count(first) >= 2
    assert running_in_optuna(storage) == []
