# Which versions made the trials and runs of a job, and which runs are made again because of that.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.db.models import Event, RecommendationRow
from service.db.session import Database
from service.ledger import jobs, runs
from service.ledger.runs import RunLog
from service.spec.job import ExtendSpec, JobSpec
from service.states import JobState, TrialState
from service.training.run import Ended
from tests.service.conftest import Submit, get_job, get_trials

OLD, NEW = {"torch": "2.13.0", "code": "a"}, {"torch": "2.14.0", "code": "a"}
SEEDS = [1, 2]

Claim = Callable[[dict[str, str]], RunLog]


@pytest.fixture
def claim(db: Database, monkeypatch: pytest.MonkeyPatch) -> Claim:
    """Lets a worker with some versions claim the job."""

    def take(versions: dict[str, str]) -> RunLog:
        monkeypatch.setattr(runs, "versions", lambda: versions)
        taken = runs.claim(db, "worker", 30.0)
        assert taken is not None
        return taken

    return take


def add_finalist(log: RunLog) -> None:
    """Add the trial that all runs of these tests are of."""
    trial = log.add_trial("adamw", {"lr": 0.1}, running=True)
    log.finish_trial(trial.id, Ended(TrialState.COMPLETE, 0.5), 1.0)


def finish(log: RunLog, most: int = 9, state: TrialState = TrialState.COMPLETE) -> int:
    """Plan the runs of the finalist and end those that wait, at most so many; return how many that were."""
    waiting = [run for run in log.plan_confirm_runs("confirm", log.trials("adamw"), SEEDS) if run.state == "queued"]
    for run in waiting[:most]:
        log.start_confirm_run(run.id)
        log.finish_confirm_run(run.id, Ended(state, 0.5, 0.5))
    return len(waiting[:most])


def dropped(db: Database) -> list[dict[str, Any]]:
    with db.read() as session:
        return [event.data for event in session.query(Event).filter_by(kind="runs_dropped").order_by(Event.id)]


def test_what_ends_was_made_with_the_versions_of_the_last_claim(db: Database, submit: Submit, claim: Claim) -> None:
    submit()
    first = claim(OLD)
    add_finalist(first)
    cut_off = first.add_trial("adamw", {"lr": 0.2}, running=True)
    first.release()
    second = claim(NEW)
    second.start_trial(cut_off.id)
    second.finish_trial(cut_off.id, Ended(TrialState.PRUNED, 0.5, cause="pruner asha"), 1.0)
    finish(second, 1)
    made = second.made_with()
    assert (made.worker, made.trials, made.runs) == (NEW, {0: OLD, 1: NEW}, {("confirm", 0, 1): NEW})
    assert len(get_trials(db, second.job_id)) == 2


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.DIVERGED])
def test_runs_of_other_versions_are_made_again(db: Database, submit: Submit, claim: Claim, state: TrialState) -> None:
    submit()
    first = claim(OLD)
    add_finalist(first)
    assert finish(first, 1, state) == 1
    first.release()
    second = claim(NEW)
    assert finish(second) == 2
    assert finish(second) == 0
    assert second.made_with().runs == {("confirm", 0, 1): NEW, ("confirm", 0, 2): NEW}
    assert dropped(db) == [{"phase": "confirm", "runs": 1, "cause": "made with torch 2.13.0 instead of 2.14.0"}]


def test_runs_of_the_same_versions_are_kept(db: Database, submit: Submit, claim: Claim) -> None:
    submit()
    first = claim(OLD)
    add_finalist(first)
    finish(first, 1)
    first.release()
    assert finish(claim(OLD)) == 1
    assert dropped(db) == []


def test_a_run_that_has_killed_its_workers_is_not_repeated(db: Database, submit: Submit, claim: Claim) -> None:
    submit()
    log = claim(OLD)
    add_finalist(log)
    (run, _) = log.plan_confirm_runs("confirm", log.trials("adamw"), SEEDS)
    for _ in range(runs.MAX_WORKER_DEATHS):
        log.start_confirm_run(run.id)
        log.recover_trials()
    assert log.confirm_runs("confirm")[0].state == TrialState.FAILED
    log.release()
    assert finish(claim(NEW)) == 1
    assert dropped(db) == []


def test_runs_of_a_worker_that_noted_no_versions_are_made_again(db: Database, submit: Submit, claim: Claim) -> None:
    submit()
    first = claim(OLD)
    with db.write() as session:
        event = session.query(Event).filter_by(kind="claimed").one()
        event.data = {"worker": "worker", "token": 1}
    add_finalist(first)
    finish(first)
    first.release()
    assert finish(claim(NEW)) == 2
    assert dropped(db)[0]["cause"] == "made with versions that were not recorded"


def test_two_workers_that_take_turns_come_to_an_end(submit: Submit, claim: Claim) -> None:
    submit()
    log = claim(OLD)
    add_finalist(log)
    finish(log)
    made = []
    for versions in (NEW, OLD, NEW, OLD):
        log.release()
        log = claim(versions)
        made.append(finish(log))
    assert made == [2, 0, 0, 0]
    assert set(map(str, log.made_with().runs.values())) == {str(NEW)}


def test_an_extension_makes_the_runs_of_other_versions_again_and_is_one_more_look(
    db: Database, submit: Submit, claim: Claim
) -> None:
    job_id = submit()
    log = claim(OLD)
    add_finalist(log)
    finish(log)
    for versions, again, looks in ((OLD, 0, 1), (NEW, 2, 2), (NEW, 0, 2), (OLD, 2, 3)):
        with db.write() as session:
            row = RecommendationRow(job_id=job_id, verdict="inconclusive", arm="adamw", data={"reason": ""})
            session.merge(row)
        log.end(JobState.SUCCEEDED, None)
        with db.write() as session:
            job = jobs.require_job(session, job_id)
            jobs.queue_again(session, job, JobSpec.from_json(job.spec), ExtendSpec(seeds=1))
        log = claim(versions)
        assert finish(log) == again
        assert get_job(db, job_id).looks == looks


def test_an_extension_is_one_look_however_often_its_runs_are_planned(
    db: Database, submit: Submit, claim: Claim
) -> None:
    job_id = submit()
    log = claim(OLD)
    add_finalist(log)
    finish(log)
    for looks in (2, 3):
        with db.write() as session:
            session.merge(RecommendationRow(job_id=job_id, verdict="inconclusive", arm="adamw", data={"reason": ""}))
        log.end(JobState.SUCCEEDED, None)
        with db.write() as session:
            job = jobs.require_job(session, job_id)
            jobs.queue_again(session, job, JobSpec.from_json(job.spec), ExtendSpec(seeds=1))
        for versions in (NEW, OLD | {"code": "b"}, OLD | {"code": str(looks)}):  # workers that take turns
            log = claim(versions)
            finish(log, 1)
            assert get_job(db, job_id).looks == looks
            log.release()
        log = claim(OLD)
        finish(log)
        assert get_job(db, job_id).looks == looks
