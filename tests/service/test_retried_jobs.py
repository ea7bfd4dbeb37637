# A job that failed or was cancelled goes on where it stood, and ends as one that nothing happened to.
from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest

from service.db.models import Event, RecommendationRow
from service.db.session import Database
from service.engines import local
from service.engines.base import default_train
from service.ledger import jobs
from service.states import JobState, TrialState
from tests.service import faults
from tests.service.conftest import Submit, WorkerMaker, get_job, get_trials, running_in_optuna

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

COMPLETE, FAILED = TrialState.COMPLETE, TrialState.FAILED


def retry(db: Database, job_id: str) -> None:
    with db.write() as session:
        jobs.retry(session, jobs.require_job_for("retry", session, job_id))


def outcome(db: Database, job_id: str) -> dict[str, Any]:
    with db.read() as session:
        result = session.get_one(RecommendationRow, job_id).data
    trials = [(t.number, t.arm, t.params, t.state, t.value, t.last_step) for t in get_trials(db, job_id)]
    return {"trials": trials, **{name: result[name] for name in ("verdict", "arm", "config", "trial", "pairs")}}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


@pytest.fixture
def undisturbed(db: Database, submit: Submit, make_worker: WorkerMaker) -> dict[str, Any]:
    """What the job comes to that nothing happens to."""
    job_id = submit()
    make_worker().run_next()
    return outcome(db, job_id)


@pytest.mark.timeout(300)
def test_a_cancelled_job_that_is_retried_ends_as_if_nothing_had_happened(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    make_worker: WorkerMaker,
    undisturbed: dict[str, Any],
    tmp_path: Path,
) -> None:
    job_id = submit()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(make_worker(faults.slow).run_next)
        wait_for((tmp_path / "point-13").exists)
        jobs.cancel(db, job_id)
        running.result(timeout=30)
    assert get_job(db, job_id).state == JobState.CANCELLED
    kept = get_trials(db, job_id)[0]
    retry(db, job_id)
    assert make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert outcome(db, job_id) == undisturbed
    assert get_trials(db, job_id)[0].finished_at == kept.finished_at
    assert running_in_optuna(storage) == []


@pytest.mark.kills
@pytest.mark.timeout(300)
def test_a_job_whose_slots_could_not_start_goes_on_from_there(
    db: Database,
    submit: Submit,
    make_worker: WorkerMaker,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "START_PAUSES_S", (0.01, 0.02))
    job_id = submit()
    make_worker(faults.DiesWhileStarting(str(tmp_path), 1000, default_train)).run_next()
    job = get_job(db, job_id)
    assert job.state == JobState.FAILED
    assert (job.cause or "").startswith("no slot process could start in 3 tries: its slot process was killed")
    with db.read() as session:
        delays = session.query(Event).filter_by(job_id=job_id, kind="start_delayed").order_by(Event.id).all()
    assert [event.data["pause_s"] for event in delays] == [0.01, 0.02]
    retry(db, job_id)
    assert make_worker().run_next()
    assert outcome(db, job_id) == undisturbed


def test_the_failed_trials_of_an_arm_without_another_run_again_and_optuna_learns_from_them(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    make_worker: WorkerMaker,
    undisturbed: dict[str, Any],
) -> None:
    job_id = submit()
    make_worker(faults.always_raises).run_next()
    assert get_job(db, job_id).state == JobState.FAILED
    assert [trial.state for trial in get_trials(db, job_id)] == [FAILED] * 2
    retry(db, job_id)
    assert make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert outcome(db, job_id) == undisturbed
    told = optuna.load_study(study_name=f"{job_id}/warpadam", storage=storage).trials
    assert [trial.state.name for trial in told] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert [trial.value for trial in told[2:]] == [trial.value for trial in get_trials(db, job_id, "warpadam")]
