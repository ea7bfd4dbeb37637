"""Totals agree with the ledger whatever happens to a job, and are read without reading trials."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import event, insert, text

from service.db.models import Trial
from service.db.session import Database
from service.ledger import jobs, queries, runs, totals
from service.ledger.runs import RunLog
from service.ledger.totals import Count, Name
from service.states import JobState, TrialState
from service.training.run import CurvePoint, Ended
from tests.service.conftest import Submit, get_trials


def read(db: Database) -> dict[Name, dict[str, dict[str, float]]]:
    with db.read() as session:
        return totals.read(session)


def plain(db: Database, name: Name) -> dict[str, float]:
    return {label: buckets[""] for label, buckets in read(db)[name].items()}


def claimed(db: Database, lease_s: float = 30.0) -> RunLog:
    taken = runs.claim(db, "worker", lease_s)
    assert taken is not None
    return taken


def test_ended_trials_are_counted_once_with_their_seconds(db: Database, submit: Submit) -> None:
    submit()
    log = claimed(db)
    log.start_arm("warpadam")
    states = [TrialState.COMPLETE, TrialState.DIVERGED, TrialState.FAILED]
    for state in states:
        trial = log.add_trial("warpadam", {}, running=True)
        log.finish_trial(trial.id, Ended(state, 1.0, None, 0.02), 1.0, [(trial.id, CurvePoint(10, 1.0, 1.0, 0.02))], 5)
    cut = log.add_trial("warpadam", {}, running=True)
    log.end(JobState.FAILED, "why")
    stored = Counter(str(trial.state) for trial in get_trials(db, log.job_id))
    assert cut.number == 3
    assert plain(db, Name.TRIALS_ENDED) == stored == {"complete": 1, "diverged": 1, "failed": 1, "pruned": 1}
    assert plain(db, Name.JOBS_ENDED) == {"failed": 1}
    assert read(db)[Name.TRIAL_SECONDS] == {"warpadam": {"0.03": 3.0, totals.SUM: pytest.approx(0.06)}}
    assert read(db)[Name.P_UPDATE_SECONDS] == {"warpadam": {"0.01": 3.0, totals.SUM: pytest.approx(0.03)}}


def test_deaths_retries_and_lost_leases_are_counted(db: Database, submit: Submit) -> None:
    submit()
    log = claimed(db)
    log.start_arm("warpadam")
    trial = log.add_trial("warpadam", {}, running=True)
    trial = log.lose(trial, "killed", 0, 2)
    log.start_trial(trial.id)
    log.lose(trial, "killed", 0, 2)
    log.delay_start("no memory", 1.0)
    assert plain(db, Name.SLOT_DEATHS) == {"running": 2, "starting": 1}
    assert plain(db, Name.RETRIES) == {"slot": 1}
    assert plain(db, Name.LEASE_LOSSES) == {}
    with db.write() as session:
        jobs.require_job(session, log.job_id).lease_expires_s = 0.0
    second = claimed(db)
    assert second.job_id == log.job_id
    second.add_trial("warpadam", {}, running=True)
    second.recover_trials()
    assert plain(db, Name.LEASE_LOSSES) == {"": 1}
    assert plain(db, Name.RETRIES)["worker"] >= 1
    second.release()
    claimed(db)
    assert plain(db, Name.LEASE_LOSSES) == {"": 1}, "a job that was given back is not lost"


def test_a_change_that_is_rolled_back_counts_nothing(db: Database, submit: Submit) -> None:
    job_id = submit()

    def count_and_fail() -> None:
        with db.write() as session:
            totals.add(session, job_id, [Count(Name.LEASE_LOSSES)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        count_and_fail()
    assert plain(db, Name.LEASE_LOSSES) == {}


def test_workers_that_count_at_once_lose_nothing(db: Database, submit: Submit) -> None:
    names, start = [Name.RETRIES, Name.SLOT_DEATHS, Name.TRIALS_ENDED, Name.JOBS_ENDED], threading.Barrier(6)

    def count(worker: int) -> None:
        draw = random.Random(worker)
        start.wait()
        for _ in range(20):
            with db.write() as session:
                totals.add(session, "one job", [Count(name) for name in draw.sample(names, 4)])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    assert [plain(db, name) for name in names] == [{"": 120.0}] * 4


def test_the_queue_age_is_that_of_the_job_that_waits_longest(db: Database, submit: Submit) -> None:
    with db.read() as session:
        assert queries.standing(session).queue_age_s == 0.0
    first, second = submit(), submit()
    with db.write() as session:
        for job_id, hours in ((first, 3), (second, 1)):
            job = jobs.require_job(session, job_id)
            assert job.queued_at is not None
            job.queued_at -= timedelta(hours=hours)
    with db.read() as session:
        assert queries.standing(session).queue_age_s == pytest.approx(3 * 3600, rel=0.01)
    log = claimed(db)
    assert log.job_id == first
    log.release()
    with db.read() as session:
        found = queries.standing(session)
    assert found.queue_age_s == pytest.approx(3600, rel=0.01), "the first one waits only since it was given back"
    assert found.jobs == {"queued": 2}


def plan_of(db: Database, statement: str) -> str:
    with db.read() as session:
        if session.get_bind().dialect.name == "sqlite":
            return "\n".join(str(row[-1]) for row in session.execute(text(f"EXPLAIN QUERY PLAN {statement}")))
        return "\n".join(str(row[0]) for row in session.execute(text(f"EXPLAIN {statement}")))


def test_with_100_000_trials_monitoring_reads_only_those_that_have_not_ended(db: Database, submit: Submit) -> None:
    job_id = submit()
    row = {"job_id": job_id, "arm": "warpadam", "state": "complete", "params": {}, "last_step": 1, "seconds": 1.0}
    with db.write() as session:
        session.execute(insert(Trial), [{**row, "number": number} for number in range(100_000)])
        session.execute(insert(Trial), [{**row, "number": 100_000, "state": "running"}])
    with db.write() as session:
        session.execute(text("ANALYZE"))
    statements: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    with db.read() as session:
        assert queries.standing(session).live_trials == {"running": 1}
        totals.read(session)
    (about_trials,) = [sent for sent in statements if "job_trials" in sent]
    plan = plan_of(db, about_trials)
    assert "ix_job_trials_live" in plan, plan
    assert "SCAN job_trials\n" not in f"{plan}\n", plan
    assert "Seq Scan on job_trials" not in plan, plan
