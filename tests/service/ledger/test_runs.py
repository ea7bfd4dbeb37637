from __future__ import annotations

import pytest

from service.db.models import Arm, Event, Trial
from service.db.session import Database
from service.ledger import queries, runs
from service.ledger.runs import MAX_WORKER_DEATHS, RunLog
from service.states import ArmState, JobState, TrialState
from service.training.run import CurvePoint, Ended
from tests.service.conftest import Submit, get_job, get_trials


@pytest.fixture
def log(db: Database, submit: Submit) -> RunLog:
    submit()
    taken = runs.claim(db, "worker", 30.0)
    assert taken is not None
    return taken


def started(log: RunLog, attempts: int = 1, arm: str = "warpadam") -> Trial:
    trial = log.add_trial(arm, {"lr": 0.1})
    for _ in range(attempts):
        log.start_trial(trial.id)
    return trial


def test_trials_are_numbered_across_the_arms_of_a_job(log: RunLog) -> None:
    assert [log.add_trial(arm, {}).number for arm in ("warpadam", "adamw", "warpadam")] == [0, 1, 2]
    assert [trial.number for trial in log.trials("warpadam")] == [0, 2]


def test_a_trial_that_is_stored_as_running_is_in_its_first_attempt_and_can_be_put_back(
    log: RunLog, db: Database
) -> None:
    trial = log.add_trial("warpadam", {"lr": 0.1}, running=True)
    (row,) = get_trials(db, log.job_id)
    assert (row.state, row.attempts, row.started_at) == (TrialState.RUNNING, 1, row.created_at)
    log.requeue_trial(trial.id, 0.0)
    (row,) = get_trials(db, log.job_id)
    assert (row.state, row.attempts) == (TrialState.QUEUED, 0)
    assert log.start_trial(trial.id) == 1


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 0.3), (0.5, 0.5)])
def test_the_end_of_a_trial_keeps_the_longer_of_its_times(
    log: RunLog, db: Database, seconds: float, expected: float
) -> None:
    trial = started(log)
    log.finish_trial(
        trial.id, Ended(TrialState.PRUNED, 0.5, None, seconds), 1.5, [(trial.id, CurvePoint(7, 1.0, 0.5, 0.3))]
    )
    (row,) = get_trials(db, log.job_id)
    assert (row.seconds, row.last_step, row.value) == (expected, 7, 0.5)


def test_a_new_attempt_forgets_the_points_of_the_last_one(log: RunLog, db: Database) -> None:
    trial = started(log)
    log.add_points([(trial.id, CurvePoint(5, 1.0, 2.0, 0.1))])
    assert {p.step: p.val_loss for p in log.curves([trial.id])[trial.id]} == {5: 2.0}
    assert log.start_trial(trial.id) == 2
    assert {p.step: p.val_loss for p in log.curves([trial.id])[trial.id]} == {}
    (row,) = get_trials(db, log.job_id)
    assert (row.attempts, row.last_step, row.seconds) == (2, 0, 0.0)


def test_deaths_of_a_worker_do_not_use_up_the_attempts_of_a_trial(log: RunLog, db: Database) -> None:
    trial = started(log)
    done = started(log)
    log.finish_trial(done.id, Ended(TrialState.COMPLETE, 0.5), 1.0)
    for _ in range(MAX_WORKER_DEATHS - 1):
        log.recover_trials()
        log.start_trial(trial.id)
    (row, _) = get_trials(db, log.job_id)
    assert (row.state, row.losses, row.worker_deaths) == (TrialState.RUNNING, 0, MAX_WORKER_DEATHS - 1)
    assert log.lose(row, "killed", 0, max_attempts=2).state == TrialState.QUEUED
    assert log.lose(row, "killed", 0, max_attempts=2).losses == 2


def test_a_run_that_takes_its_workers_down_is_failed(log: RunLog, db: Database) -> None:
    trial = started(log)
    fatal, unlucky = log.plan_confirm_runs("confirm", [trial], [1, 2])
    for _ in range(MAX_WORKER_DEATHS):
        log.start_trial(trial.id)
        log.start_confirm_run(fatal.id)
        log.recover_trials()
    log.start_confirm_run(unlucky.id)
    log.recover_trials()
    cause = "its worker died 5 times while it ran, and it came no further"
    (row,) = get_trials(db, log.job_id)
    assert (row.state, row.cause, row.finished_at is None) == (TrialState.FAILED, cause, False)
    assert [(run.state, run.cause) for run in log.confirm_runs("confirm")] == [
        (TrialState.FAILED, cause),
        (TrialState.QUEUED, None),
    ]


def test_a_confirmation_run_that_came_further_each_time_is_not_failed(log: RunLog) -> None:
    (run,) = log.plan_confirm_runs("confirm", [started(log)], [1])
    for step in range(1, 2 * MAX_WORKER_DEATHS):
        log.start_confirm_run(run.id)
        assert log.running_confirm_runs() == [run.id]
        log.recover_trials({run.id: 100 * step})
    (row,) = log.confirm_runs("confirm")
    assert (row.state, row.worker_deaths) == (TrialState.QUEUED, 0)
    for _ in range(MAX_WORKER_DEATHS):
        log.start_confirm_run(run.id)
        log.recover_trials({run.id: 100})
    assert log.confirm_runs("confirm")[0].state == TrialState.FAILED


def test_an_attempt_that_came_further_than_all_before_it_does_not_count(log: RunLog, db: Database) -> None:
    trial = started(log)
    for step in (5, 10, 10, 5):
        log.add_points([(trial.id, CurvePoint(step, 1.0, 1.0, 0.1))])
        log.recover_trials()
        log.start_trial(trial.id)
    (row,) = get_trials(db, log.job_id)
    assert (row.worker_deaths, row.furthest_step, row.attempts) == (2, 10, 5)
    assert [log.lose(row, "killed", step, 9).losses for step in (10, 11, 11, 3, 20)] == [1, 1, 2, 3, 3]


def test_a_lost_run_is_queued_with_an_event_until_its_attempts_are_used_up(log: RunLog, db: Database) -> None:
    trial = started(log)
    run, _ = log.plan_confirm_runs("confirm", [trial], [1, 2])
    log.start_confirm_run(run.id)
    assert [log.lose(trial, "killed", 0, 2).state for _ in range(2)] == [TrialState.QUEUED] * 2
    assert [log.lose(run, "killed", 0, 2).losses for _ in range(2)] == [1, 2]
    with db.read() as session:
        events = session.query(Event).filter(Event.kind.endswith("retried")).order_by(Event.id).all()
    assert [(event.kind, event.data) for event in events] == [
        ("trial_retried", {"trial": 0, "arm": "warpadam", "cause": "killed"}),
        ("run_retried", {"trial": 0, "phase": "confirm", "seed": 1, "arm": "warpadam", "cause": "killed"}),
    ]


@pytest.mark.parametrize(
    ("odd", "stored"),
    [("bad magic \x00\x01", "bad magic \\x00\x01"), ("no caf\udce9.csv, Ω 🚀", "no caf\\udce9.csv, Ω 🚀")],
)
def test_an_odd_character_in_a_cause_is_written_out_wherever_it_is_stored(
    log: RunLog, db: Database, odd: str, stored: str
) -> None:
    """User code raises what it likes. PostgreSQL stores no NUL, and neither database half a surrogate pair."""
    trial = started(log)
    (run,) = log.plan_confirm_runs("confirm", [trial], [1])
    log.lose(trial, odd, 0, 2)
    log.delay_start(odd, 1.0)
    log.finish_trial(trial.id, Ended(TrialState.FAILED, cause=odd), 1.0)
    log.finish_confirm_run(run.id, Ended(TrialState.FAILED, cause=odd))
    log.stop(odd)
    log.end(JobState.FAILED, odd)
    assert get_trials(db, log.job_id)[0].cause == stored
    assert log.confirm_runs("confirm")[0].cause == stored
    assert get_job(db, log.job_id).cause == stored
    with db.read() as session:
        causes = [event.data["cause"] for event in session.query(Event) if "cause" in event.data]
    assert len(causes) == 4
    assert {cause.replace("\x00", "\\x00") for cause in causes} == {stored}
    assert "".join(causes).encode()  # JSON may hold a NUL, but no answer can repeat half a surrogate pair


def test_what_is_put_back_keeps_its_attempt_and_the_arm_its_time(log: RunLog, db: Database) -> None:
    trial = started(log)
    log.requeue_trial(trial.id, 7.5)
    run = log.plan_confirm_runs("confirm", [trial], [1])[0]
    log.start_confirm_run(run.id)
    log.requeue_confirm_run(run.id)
    assert (get_trials(db, log.job_id)[0].attempts, log.confirm_runs("confirm")[0].attempts) == (0, 0)
    assert log.start_arm("warpadam").seconds_used == 7.5


def test_confirm_runs_are_planned_once(log: RunLog) -> None:
    finalists = [started(log), started(log, arm="adamw")]
    first = log.plan_confirm_runs("confirm", finalists, [1, 2])
    again = log.plan_confirm_runs("confirm", finalists, [1, 2])
    assert [run.id for run in first] == [run.id for run in again]
    assert [(run.arm, run.seed) for run in first] == [("warpadam", 1), ("adamw", 1), ("warpadam", 2), ("adamw", 2)]


def test_the_end_of_a_job_ends_its_open_trials(log: RunLog, db: Database) -> None:
    started(log)
    log.add_trial("adamw", {})
    log.end(JobState.CANCELLED, None)
    assert get_job(db, log.job_id).state == JobState.CANCELLED
    for trial in get_trials(db, log.job_id):
        assert (trial.state, trial.cause) == (TrialState.PRUNED, "the job was cancelled before the run was over")
    with db.read() as session:
        assert {arm.arm.state for arm in queries.arm_summaries(session, log.job_id)} == {ArmState.STOPPED}


def test_arm_summaries_count_states_and_find_the_best_completed_trial(log: RunLog, db: Database) -> None:
    for state, loss in (
        (TrialState.COMPLETE, 0.5),
        (TrialState.PRUNED, 0.1),
        (TrialState.COMPLETE, 0.3),
        (TrialState.COMPLETE, 0.3),
        (TrialState.FAILED, None),
    ):
        log.finish_trial(started(log).id, Ended(state, loss), 1.5)
    with db.read() as session:
        warp, adamw, untuned = queries.arm_summaries(session, log.job_id)
    assert warp.counts == {TrialState.COMPLETE: 3, TrialState.PRUNED: 1, TrialState.FAILED: 1}
    assert warp.best is not None
    assert (warp.best.number, warp.best.value, warp.arm.seconds_used) == (2, 0.3, 1.5)
    assert (adamw.counts, adamw.best) == (untuned.counts, untuned.best) == ({}, None)
    with db.write() as session:
        session.get_one(Trial, warp.best.id).val_loss = None  # of a service that did not store it
    with db.read() as session:
        best = queries.arm_summaries(session, log.job_id)[0].best
    assert best is not None
    assert best.number == 3


def test_an_arm_that_came_after_a_job_was_made_is_added_to_it(log: RunLog, db: Database) -> None:
    with db.write() as session:
        session.delete(session.get_one(Arm, (log.job_id, "adamw_default")))
    for _ in range(2):
        assert log.start_arm("adamw_default").state == ArmState.RUNNING
    with db.read() as session:
        arms = [(summary.arm.name, summary.arm.state) for summary in queries.arm_summaries(session, log.job_id)]
    assert arms == [("warpadam", "queued"), ("adamw", "queued"), ("adamw_default", "running")]
