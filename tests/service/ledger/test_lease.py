from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.db.models import Event
from service.db.session import Database
from service.errors import LeaseLostError, OtherVersionError
from service.ledger import jobs, runs
from service.ledger.runs import RunLog
from service.states import JobState, TrialState
from service.training.run import CurvePoint, Ended
from service.version import versions
from tests.service.conftest import Submit, get_job, get_trials
from tests.service.results import a_result


def expire(db: Database, job_id: str) -> None:
    with db.write() as session:
        jobs.require_job(session, job_id).lease_expires_s = 0.0


def claimed(db: Database, worker: str = "worker") -> RunLog:
    taken = runs.claim(db, worker, 30.0)
    assert taken is not None
    return taken


def test_claim_gives_each_job_to_one_worker(db: Database, submit: Submit) -> None:
    ids = {submit() for _ in range(12)}
    start = threading.Barrier(6)

    def claim_until_empty(name: int) -> list[str]:
        start.wait()
        mine = []
        while (taken := runs.claim(db, f"worker-{name}", 30.0)) is not None:
            mine.append(taken.job_id)
        return mine

    with ThreadPoolExecutor(6) as pool:
        taken = [job_id for mine in pool.map(claim_until_empty, range(6)) for job_id in mine]
    assert len(taken) == 12
    assert set(taken) == ids


def test_claim_takes_the_oldest_job_first(db: Database, submit: Submit) -> None:
    ids = [submit() for _ in range(3)]
    assert [claimed(db).job_id for _ in ids] == ids
    assert runs.claim(db, "late", 30.0) is None


def test_claim_leaves_a_job_alone_while_its_lease_lasts_and_takes_it_over_afterwards(
    db: Database, submit: Submit
) -> None:
    submit()
    first = runs.claim(db, "first", 0.3)
    assert first is not None
    assert runs.claim(db, "second", 30.0) is None
    first.renew()
    assert runs.claim(db, "second", 30.0) is None
    time.sleep(0.4)
    second = claimed(db, "second")
    assert (second.job_id, second.token) == (first.job_id, first.token + 1)
    assert get_job(db, first.job_id).lease_worker == "second"


def test_a_stale_token_can_write_nothing(db: Database, submit: Submit) -> None:
    job_id = submit()
    stale = claimed(db, "first")
    log = stale
    log.start_arm("warpadam")
    trial = log.add_trial("warpadam", {"lr": 0.1})
    log.start_trial(trial.id)
    run = log.plan_confirm_runs("confirm", [trial], [1])[0]
    expire(db, job_id)
    claimed(db, "second")

    def everything(session_free_log: RunLog) -> dict[str, object]:
        job = get_job(db, job_id)
        return {
            "job": (job.state, job.cause, job.data_sha256, job.lease_worker),
            "trials": [(t.state, t.value, t.attempts, t.last_step) for t in get_trials(db, job_id)],
            "runs": [(r.state, r.test_loss) for r in session_free_log.confirm_runs("confirm")],
        }

    before = everything(log)
    writes = (
        lambda: log.start_arm("adamw"),
        lambda: log.finish_arm("warpadam", 1.0, "trials_per_arm"),
        lambda: log.add_trial("warpadam", {}),
        lambda: log.start_trial(trial.id),
        lambda: log.add_points([(trial.id, CurvePoint(1, 1.0, 1.0, 0.1))]),
        lambda: log.finish_trial(trial.id, Ended(TrialState.COMPLETE, 1.0), 1.0),
        lambda: log.requeue_trial(trial.id, 1.0),
        lambda: log.lose(trial, "why", 0, 2),
        log.recover_trials,
        lambda: log.delay_start("why", 1.0),
        lambda: log.plan_confirm_runs("select", [trial], [1]),
        lambda: log.start_confirm_run(run.id),
        lambda: log.requeue_confirm_run(run.id),
        lambda: log.finish_confirm_run(run.id, Ended(TrialState.COMPLETE, 1.0)),
        lambda: log.set_data_hash("x"),
        log.verify,
        lambda: log.succeed(a_result()),
        lambda: log.end(JobState.FAILED, "why"),
        stale.renew,
        stale.release,
        stale.requests,
    )
    for write in writes:
        with pytest.raises(LeaseLostError):
            write()
    assert everything(log) == before


def test_release_puts_the_job_back_for_the_next_worker(db: Database, submit: Submit) -> None:
    job_id = submit()
    claimed(db).release()
    job = get_job(db, job_id)
    assert (job.state, job.lease_worker, job.lease_expires_s) == (JobState.QUEUED, None, None)
    assert claimed(db).job_id == job_id


def test_the_time_with_a_worker_is_counted_and_no_other(db: Database, submit: Submit) -> None:
    job_id = submit()

    def pass_by(seconds: float) -> None:
        with db.write() as session:
            job = jobs.require_job(session, job_id)
            job.lease_expires_s = job.lease_expires_s and job.lease_expires_s - seconds

    first = claimed(db, "first")
    pass_by(5)
    assert 5 <= first.renew() < 15
    pass_by(7)
    first.release()  # the last seconds count, too
    assert 12 <= get_job(db, job_id).worker_seconds < 30
    jobs.pause(db, job_id)
    jobs.resume(db, job_id)
    dies = claimed(db, "dies")
    pass_by(8)
    assert 20 <= dies.renew() < 50
    pass_by(3600)  # nobody has it once the lease has run out
    taken = claimed(db, "takes over")
    assert 20 <= taken.renew() < 80
    pass_by(3600)
    assert 50 <= taken.renew() < 140  # a worker that was away for an hour and was not missed: one lease
    taken.end(JobState.FAILED, "why")
    ended = get_job(db, job_id).worker_seconds
    taken.renew()  # the thread of a worker does so for a moment
    assert get_job(db, job_id).worker_seconds == ended


def test_a_deleted_job_is_a_lost_one(db: Database, submit: Submit) -> None:
    job_id = submit()
    taken = claimed(db)
    taken.end(JobState.FAILED, "why")
    jobs.delete_row(db, job_id)
    with pytest.raises(LeaseLostError):
        taken.renew()


def test_every_change_of_a_job_is_an_event(db: Database, submit: Submit) -> None:
    job_id = submit()
    log = claimed(db, "me")
    log.start_arm("warpadam")
    log.finish_arm("warpadam", 2.5, "trials_per_arm")
    log.verify()
    log.verify()  # a second worker verifies again: no second event
    log.end(JobState.FAILED, "why")
    with db.read() as session:
        events = [(e.kind, e.data) for e in session.query(Event).filter(Event.job_id == job_id).order_by(Event.id)]
    assert events == [
        ("submitted", {}),
        ("claimed", {"worker": "me", "token": 1, "versions": versions()}),
        ("arm_started", {"arm": "warpadam"}),
        ("arm_finished", {"arm": "warpadam", "reason": "trials_per_arm", "seconds": 2.5}),
        ("verifying", {}),
        ("failed", {"cause": "why"}),
    ]


def test_a_job_that_is_given_back_after_its_cancellation_is_cancelled(db: Database, submit: Submit) -> None:
    job_id = submit()
    taken = claimed(db)
    jobs.cancel(db, job_id)
    taken.release()
    assert get_job(db, job_id).state == JobState.CANCELLED
    assert runs.claim(db, "next", 30.0) is None


def test_a_spec_that_this_version_refuses_can_be_claimed_and_is_then_refused(db: Database, submit: Submit) -> None:
    job_id = submit()
    with db.write() as session:
        job = jobs.require_job(session, job_id)
        job.spec = {**job.spec, "from_the_future": 1}
    taken = claimed(db)
    with pytest.raises(OtherVersionError, match="from_the_future"):
        _ = taken.spec
