# What a worker makes of pause, resume and stop: a paused job ends as if nothing had happened, and a stopped one gets a
# fair verdict on fewer trials. On both engines and databases: test_engines.py.
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from service.db.models import Arm, ConfirmRun, Event, RecommendationRow
from service.db.session import Database
from service.ledger import jobs
from service.settings import Settings
from service.spec.job import ExtendSpec
from service.states import ArmState, JobState, TrialState
from service.submission import Context
from service.submission.extend import extend
from service.worker import Worker
from tests.service import faults
from tests.service.conftest import Submit, WorkerMaker, get_job, get_trials, running_in_optuna
from tests.service.test_takeover import wait_for

COMPLETE, QUEUED = TrialState.COMPLETE, TrialState.QUEUED

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@contextmanager
def running(worker: Worker) -> Iterator[None]:
    """Run a job in a thread; wait for its end."""
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(worker.run_next)
        yield
        assert ended.result(timeout=60)


def outcome(db: Database, job_id: str) -> tuple[Any, ...]:
    trials = [(t.number, t.arm, t.params, t.state, t.value, t.last_step, t.attempts) for t in get_trials(db, job_id)]
    with db.read() as session:
        rows = session.query(ConfirmRun).filter_by(job_id=job_id).order_by(ConfirmRun.id)
        runs = [(r.phase, r.arm, r.trial_number, r.seed, r.state, r.test_loss, r.attempts) for r in rows]
    return trials, runs


def is_comparing(db: Database, job_id: str) -> bool:
    """Return whether a run that compares finalists is running."""
    return any(run[4] == TrialState.RUNNING for run in outcome(db, job_id)[1])


@pytest.fixture
def undisturbed(submit: Submit, make_worker: WorkerMaker) -> str:
    """A job that has ended without any disturbance."""
    job_id = submit()
    make_worker().run_next()
    return job_id


def events(db: Database, job_id: str, kind: str) -> list[dict[str, Any]]:
    with db.read() as session:
        return [row.data for row in session.query(Event).filter_by(job_id=job_id, kind=kind).order_by(Event.id)]


def result_of(db: Database, job_id: str) -> dict[str, Any]:
    with db.read() as session:
        return session.get_one(RecommendationRow, job_id).data


def test_a_paused_job_goes_on_with_another_worker_and_ends_as_if_nothing_had_happened(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    make_worker: WorkerMaker,
    tmp_path: Path,
    undisturbed: str,
) -> None:
    job_id = submit()
    with running(make_worker(faults.slow)):
        wait_for(lambda: len(get_trials(db, job_id)) == 2 and (tmp_path / "point-12").exists())
        jobs.pause(db, job_id)
    assert get_job(db, job_id).state == JobState.PAUSED
    assert [(t.state, t.attempts) for t in get_trials(db, job_id)] == [(COMPLETE, 1), (QUEUED, 0)]
    assert running_in_optuna(storage) == []
    assert not make_worker().run_next()
    jobs.resume(db, job_id)
    assert make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert outcome(db, job_id) == outcome(db, undisturbed)


def test_a_job_is_paused_while_its_finalists_are_compared(
    db: Database, submit: Submit, make_worker: WorkerMaker, undisturbed: str
) -> None:
    job_id = submit()
    with running(make_worker(faults.slow_to_confirm)):
        wait_for(lambda: is_comparing(db, job_id))
        jobs.pause(db, job_id)
    assert get_job(db, job_id).state == JobState.PAUSED
    jobs.resume(db, job_id)
    assert make_worker().run_next()
    assert outcome(db, job_id) == outcome(db, undisturbed)


def test_the_time_of_a_pause_does_not_count(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(budget={"trials_per_arm": 3, "steps": 10, "batch_size": 32, "max_seconds": 600.0})
    with running(make_worker(faults.slow)):
        wait_for(lambda: bool(get_trials(db, job_id)))
        jobs.pause(db, job_id)
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600.0)
    monkeypatch.setattr("service.running.arm_search.time", later)
    with db.write() as session:
        job = jobs.require_job(session, job_id)
        assert job.started_at is not None
        job.started_at -= timedelta(hours=1)
    jobs.resume(db, job_id)
    assert make_worker().run_next()
    assert [(t.arm, t.state) for t in get_trials(db, job_id)][:3] == [("warpadam", COMPLETE)] * 3
    assert {data["reason"] for data in events(db, job_id, "arm_finished")} == {"trials_per_arm"}


def stop_when(db: Database, job_id: str, condition: Callable[[], bool]) -> None:
    wait_for(condition)
    jobs.stop(db, job_id)


def test_a_stop_in_the_last_arm_begins_no_trial_and_counts_as_many_of_each_arm(
    db: Database, storage: optuna.storages.RDBStorage, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit(budget={"trials_per_arm": 6, "steps": 10, "batch_size": 32})
    with running(make_worker(faults.slow_search_of_adamw)):
        stop_when(db, job_id, lambda: len(get_trials(db, job_id, "adamw")) == 2)
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    tuned = {arm: get_trials(db, job_id, arm) for arm in ("warpadam", "adamw")}
    assert {arm: len(trials) for arm, trials in tuned.items()} == {"warpadam": 6, "adamw": 2}
    assert {trial.state for trial in get_trials(db, job_id)} == {COMPLETE}  # the trial that ran was finished
    reasons = {data["arm"]: data["reason"] for data in events(db, job_id, "arm_finished")}
    assert reasons == {"warpadam": "trials_per_arm", "adamw": "stopped", "adamw_default": "trials_per_arm"}
    result = result_of(db, job_id)
    assert "the job was stopped, so each arm counts only its first 2 trials" in result["findings"]["advice"]
    curves = {arm["arm"]: len(arm["tuning_curve"]) for arm in result["findings"]["arms"]}
    assert curves == {"warpadam": 2, "adamw": 2, "adamw_default": 1}
    counted = {trial.number for trials in tuned.values() for trial in trials[:2]}
    assert {run[2] for run in outcome(db, job_id)[1]} <= counted | {get_trials(db, job_id, "adamw_default")[0].number}
    assert running_in_optuna(storage) == []


def test_after_a_stop_in_the_first_arm_the_others_get_as_many_trials_and_controls_none(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit(budget={"trials_per_arm": 6, "steps": 10, "batch_size": 32}, controls=["random_p"])
    with running(make_worker(faults.slow_search)):
        stop_when(db, job_id, lambda: len(get_trials(db, job_id)) == 2)
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    counts = {arm: len(get_trials(db, job_id, arm)) for arm in ("warpadam", "adamw", "random_p", "adamw_default")}
    assert counts == {"warpadam": 2, "adamw": 2, "random_p": 0, "adamw_default": 1}
    advice = result_of(db, job_id)["findings"]["advice"]
    assert "the job was stopped before it had searched random_p, which it leaves out" in advice
    with db.read() as session:
        states = {arm.name: arm.state for arm in session.query(Arm).filter_by(job_id=job_id)}
    assert states.pop("random_p") == ArmState.STOPPED
    assert "random_p" not in {data["arm"] for data in events(db, job_id, "arm_started")}
    assert set(states.values()) == {ArmState.COMPLETE}


def test_a_stopped_job_goes_on_until_each_arm_has_a_trial_that_completed(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit(budget={"trials_per_arm": 4, "steps": 10, "batch_size": 32})
    jobs.stop(db, job_id)
    make_worker(faults.first_run_raises).run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    states = [trial.state for trial in get_trials(db, job_id, "warpadam")]
    assert states == [TrialState.FAILED, COMPLETE]
    assert len(get_trials(db, job_id, "adamw")) == 2


def test_a_stopped_job_that_is_extended_searches_every_arm_to_its_whole_budget(
    db: Database, context: Context, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit(budget={"trials_per_arm": 3, "steps": 10, "batch_size": 32}, controls=["random_p"])
    jobs.stop(db, job_id)
    make_worker().run_next()
    assert [len(get_trials(db, job_id, arm)) for arm in ("warpadam", "adamw", "random_p")] == [1, 1, 0]
    extend(context, job_id, ExtendSpec(trials=1), lambda _session, _job: {})
    make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert [len(get_trials(db, job_id, arm)) for arm in ("warpadam", "adamw", "random_p")] == [4, 4, 4]
    assert not any("stopped" in sentence for sentence in result_of(db, job_id)["findings"]["advice"])


def use_up(db: Database, job_id: str, limits: float) -> None:
    """Let a job have had a worker for so many times the limit of seconds."""
    with db.write() as session:
        jobs.require_job(session, job_id).worker_seconds = limits * Settings().max_job_seconds


@pytest.mark.parametrize("phase", ["search", "confirm"])
def test_a_job_at_twice_its_limit_of_seconds_fails_and_goes_on_when_the_limit_is_higher(
    db: Database, settings: Settings, submit: Submit, make_worker: WorkerMaker, phase: str, undisturbed: str
) -> None:
    job_id = submit()
    with running(make_worker(faults.slow_to_confirm if phase == "confirm" else faults.slow_search)):
        if phase == "confirm":
            wait_for(lambda: is_comparing(db, job_id))
        else:
            wait_for(lambda: len(get_trials(db, job_id)) == 2)
        use_up(db, job_id, 2)
    job = get_job(db, job_id)
    assert job.state == JobState.FAILED
    assert "2 times the limit of the setting WARPTUNE_MAX_JOB_SECONDS, 604800 seconds" in str(job.cause)
    assert events(db, job_id, "stop_requested") == []  # there was no time for a stop

    def retry() -> None:
        with db.write() as session:
            jobs.retry(session, jobs.require_job(session, job_id))

    retry()
    make_worker().run_next()
    assert get_job(db, job_id).state == JobState.FAILED  # nothing has changed
    retry()
    worker = make_worker()
    worker._settings = settings.model_copy(update={"max_job_seconds": 10 * settings.max_job_seconds})
    worker.run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert [run[:6] for run in outcome(db, job_id)[1]] == [run[:6] for run in outcome(db, undisturbed)[1]]


def test_the_comparison_of_a_job_that_reaches_its_limit_of_seconds_is_finished(
    db: Database, submit: Submit, make_worker: WorkerMaker, undisturbed: str
) -> None:
    job_id = submit()
    with running(make_worker(faults.slow_to_confirm)):
        wait_for(lambda: is_comparing(db, job_id))
        use_up(db, job_id, 1)
        wait_for(lambda: get_job(db, job_id).worker_seconds > Settings().max_job_seconds)
        jobs.pause(db, job_id)
    jobs.resume(db, job_id)
    make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert events(db, job_id, "stop_requested") == []
    assert outcome(db, job_id) == outcome(db, undisturbed)


def test_a_user_who_stops_a_job_is_not_told_that_the_limit_did(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit(budget={"trials_per_arm": 6, "steps": 10, "batch_size": 32})
    with running(make_worker(faults.slow_search)):
        stop_when(db, job_id, lambda: len(get_trials(db, job_id)) == 2)
        use_up(db, job_id, 1)
    assert events(db, job_id, "stop_requested") == [{}]
    advice = result_of(db, job_id)["findings"]["advice"]
    assert "the job was stopped, so each arm counts only its first 2 trials" in advice
