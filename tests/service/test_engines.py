# What every engine promises about a job: the same rows in the ledger, whatever happens to a run. Both engines, both
# databases, real training.
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest

from service.db.models import ConfirmRun, Event, RecommendationRow, TrialPoint
from service.db.session import Database
from service.engines.base import Train, default_train
from service.engines.local import LocalEngine
from service.engines.ray_tune import RayEngine
from service.ledger import jobs
from service.recommend.fidelity import UNPRUNED
from service.settings import Settings
from service.states import JobState, TrialState
from service.worker import Worker
from tests.service import faults
from tests.service.conftest import Submit, get_job, get_trials, running_in_optuna

COMPLETE, FAILED, DIVERGED, PRUNED = TrialState.COMPLETE, TrialState.FAILED, TrialState.DIVERGED, TrialState.PRUNED

ONE_AT_A_TIME = {"optuna": {"slots": 1}, "ray": {"max_concurrent": 1}}

pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),  # an actor after each death, on a machine that may be busy
]

MakeWorker = Callable[..., Worker]
SubmitTo = Callable[..., str]


@pytest.fixture(params=["optuna", "ray"])
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_worker(
    settings: Settings, db: Database, storage: optuna.storages.RDBStorage, shared_engine: LocalEngine, tmp_path: Path
) -> Iterator[MakeWorker]:
    """Makes a worker with both engines; with ``train``, they run that instead of the service's own loop."""
    engines: list[LocalEngine] = []

    def make(train: Train = default_train) -> Worker:
        if train is default_train:
            return Worker(settings, db, storage, {"optuna": shared_engine, "ray": RayEngine()})
        in_folder: Train = partial(faults.in_folder, str(tmp_path), train)
        engines.append(LocalEngine(in_folder))
        return Worker(settings, db, storage, {"optuna": engines[-1], "ray": RayEngine(train=in_folder)})

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def submit_to(submit: Submit) -> SubmitTo:
    """Queues a job for an engine that does one trial at a time."""

    def queue(engine_name: str, **parts: Any) -> str:
        return submit(engine={"name": engine_name}, resources=ONE_AT_A_TIME[engine_name], **parts)

    return queue


def ledger(db: Database, job_id: str) -> dict[str, list[tuple[object, ...]]]:
    """Return all that a job's trials and confirmation runs came to, but for times."""
    trials = get_trials(db, job_id)
    numbers = {trial.id: trial.number for trial in trials}
    with db.read() as session:
        points = session.query(TrialPoint).filter(TrialPoint.trial_id.in_(numbers)).order_by(TrialPoint.step).all()
        runs = session.query(ConfirmRun).filter_by(job_id=job_id).order_by(ConfirmRun.id).all()
    return {
        "trials": [(t.number, t.arm, t.params, t.state, t.value, t.last_step, t.attempts, t.cause) for t in trials],
        "points": sorted((numbers[p.trial_id], p.step, p.train_loss, p.val_loss) for p in points),
        "runs": [(r.phase, r.arm, r.trial_number, r.seed, r.state, r.val_loss, r.test_loss, r.attempts) for r in runs],
    }


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100.0
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def test_the_same_spec_gives_the_same_ledger_under_either_engine(
    db: Database, storage: optuna.storages.RDBStorage, submit_to: SubmitTo, make_worker: MakeWorker
) -> None:
    ids = [submit_to(name) for name in ("optuna", "ray")]
    worker = make_worker()
    assert worker.run_next()
    assert worker.run_next()
    assert [get_job(db, job_id).state for job_id in ids] == [JobState.SUCCEEDED] * 2
    local, ray = (ledger(db, job_id) for job_id in ids)
    assert len(local["trials"]) == 5
    assert len(local["points"]) == 50
    assert len(local["runs"]) == 34  # in two arms two trials race in four rounds; three arms have six confirmation runs
    assert ray == local
    assert running_in_optuna(storage) == []


@pytest.mark.kills
def test_a_trial_that_fails_and_one_whose_process_is_killed_disturb_no_other(
    db: Database, storage: optuna.storages.RDBStorage, submit_to: SubmitTo, make_worker: MakeWorker, engine_name: str
) -> None:
    undisturbed = submit_to("optuna")
    assert make_worker().run_next()
    job_id = submit_to(engine_name)
    assert make_worker(faults.first_run_killed_once_second_raises).run_next()
    before, after = get_trials(db, undisturbed), get_trials(db, job_id)
    assert [(trial.state, trial.attempts) for trial in after] == [
        (COMPLETE, 2),
        (FAILED, 1),
        *[(COMPLETE, 1)] * 3,
    ]
    assert (after[1].cause or "").startswith("RuntimeError: the run is broken")
    assert [(t.params, t.value) for t in after if t.number != 1] == [
        (t.params, t.value) for t in before if t.number != 1
    ]
    assert len([key for key, *_ in ledger(db, job_id)["points"] if key == 0]) == 10
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert running_in_optuna(storage) == []
    with db.read() as session:
        retried = session.query(Event).filter_by(job_id=job_id, kind="trial_retried").one()
    assert retried.data["trial"] == 0
    assert retried.data["cause"]


def test_trials_that_are_stopped_early_are_pruned_and_those_without_a_finite_loss_diverged(
    db: Database, storage: optuna.storages.RDBStorage, submit_to: SubmitTo, make_worker: MakeWorker, engine_name: str
) -> None:
    overrides = {"lr": [0.01, 1e-9, 1e30], "structure": "diagonal"}
    job_id = submit_to(
        engine_name,
        search={"sampler": "random", "pruner": "asha"},
        budget={"trials_per_arm": 20, "steps": 8, "batch_size": 32},  # the first 8 are never stopped
        search_space={"preset": "quick", "overrides": overrides},
    )
    assert make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    trials = get_trials(db, job_id, "warpadam")
    by_lr = {lr: [trial for trial in trials if trial.params["lr"] == lr] for lr in overrides["lr"]}
    assert {trial.state for trial in by_lr[1e30]} == {DIVERGED}
    assert COMPLETE in {trial.state for trial in by_lr[0.01]}
    pruned = [trial for trial in trials if trial.state == PRUNED]
    assert pruned
    assert all(trial not in trials[:UNPRUNED] for trial in pruned)
    assert {trial.cause for trial in pruned} == {"pruner asha"}
    assert all(2 <= trial.last_step < 8 and trial.value is not None for trial in pruned)
    assert running_in_optuna(storage) == []
    told = {
        t.user_attrs["trial"]: t for t in optuna.load_study(study_name=f"{job_id}/warpadam", storage=storage).trials
    }
    for trial in trials:
        expected = optuna.trial.TrialState.COMPLETE if trial.state == COMPLETE else optuna.trial.TrialState.PRUNED
        assert told[trial.number].state == expected
    assert all(told[trial.number].value == trial.value for trial in pruned)


def test_the_cap_on_seconds_ends_an_arm(
    db: Database, storage: optuna.storages.RDBStorage, submit_to: SubmitTo, make_worker: MakeWorker, engine_name: str
) -> None:
    job_id = submit_to(engine_name, budget={"trials_per_arm": 10_000, "steps": 10, "max_seconds": 4.0})
    make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    with db.read() as session:
        rows = session.query(Event).filter_by(job_id=job_id, kind="arm_finished").order_by(Event.id)
        ended = [event.data for event in rows]
    assert [(data["arm"], data["reason"]) for data in ended] == [
        ("warpadam", "max_seconds"),
        ("adamw", "max_seconds"),
        ("adamw_default", "trials_per_arm"),
    ]
    assert all(data["seconds"] >= 4.0 for data in ended[:2])
    assert {trial.state for trial in get_trials(db, job_id)} <= {COMPLETE, PRUNED}
    assert running_in_optuna(storage) == []


def test_cancelling_stops_a_running_trial(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit_to: SubmitTo,
    make_worker: MakeWorker,
    engine_name: str,
    tmp_path: Path,
) -> None:
    job_id = submit_to(engine_name)
    worker = make_worker(faults.slow)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(worker.run_next)
        wait_for(lambda: any(tmp_path.glob("point-*")))
        jobs.cancel(db, job_id)
        assert running.result(timeout=20)
    assert get_job(db, job_id).state == JobState.CANCELLED
    assert {trial.state for trial in get_trials(db, job_id)} == {PRUNED}
    assert running_in_optuna(storage) == []


def test_a_job_is_paused_and_then_ends_as_if_nothing_had_happened(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit_to: SubmitTo,
    make_worker: MakeWorker,
    engine_name: str,
    tmp_path: Path,
) -> None:
    undisturbed = submit_to("optuna")
    assert make_worker().run_next()
    job_id = submit_to(engine_name)
    worker = make_worker(faults.slow)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(worker.run_next)
        wait_for((tmp_path / "point-12").exists)
        jobs.pause(db, job_id)
        assert running.result(timeout=20)
    assert get_job(db, job_id).state == JobState.PAUSED
    assert [(t.state, t.attempts) for t in get_trials(db, job_id)] == [(COMPLETE, 1), (TrialState.QUEUED, 0)]
    assert running_in_optuna(storage) == []
    assert not make_worker().run_next()

    jobs.resume(db, job_id)
    assert make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert ledger(db, job_id) == ledger(db, undisturbed)


def test_a_stopped_job_finishes_the_trial_that_runs_and_is_judged(
    db: Database, submit_to: SubmitTo, make_worker: MakeWorker, engine_name: str, tmp_path: Path
) -> None:
    job_id = submit_to(engine_name, budget={"trials_per_arm": 5, "steps": 10, "batch_size": 32})
    with ThreadPoolExecutor() as pool:
        running = pool.submit(make_worker(faults.slow_search).run_next)
        wait_for((tmp_path / "point-12").exists)
        jobs.stop(db, job_id)
        assert running.result(timeout=200)
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    trials = get_trials(db, job_id)
    assert [(t.arm, t.state, t.attempts) for t in trials] == [
        *[("warpadam", COMPLETE, 1)] * 2,
        *[("adamw", COMPLETE, 1)] * 2,
        ("adamw_default", COMPLETE, 1),
    ]


def test_a_job_that_had_a_worker_for_too_long_is_stopped_and_judged(
    db: Database, submit_to: SubmitTo, make_worker: MakeWorker, engine_name: str, settings: Settings, tmp_path: Path
) -> None:
    job_id = submit_to(engine_name, budget={"trials_per_arm": 40, "steps": 10, "batch_size": 32})
    with ThreadPoolExecutor() as pool:
        running = pool.submit(make_worker(faults.slow_search).run_next)
        wait_for((tmp_path / "point-12").exists)
        with db.write() as session:
            jobs.require_job(session, job_id).worker_seconds = settings.max_job_seconds
        assert running.result(timeout=300)
    job = get_job(db, job_id)
    assert (job.state, job.stop_requested) == (JobState.SUCCEEDED, True)
    trials = get_trials(db, job_id)
    assert {trial.state for trial in trials} == {COMPLETE}
    searched = len([trial for trial in trials if trial.arm == "warpadam"])
    assert 2 <= searched < 40
    assert len([trial for trial in trials if trial.arm == "adamw"]) == searched
    with db.read() as session:
        asked = session.query(Event).filter_by(job_id=job_id, kind="stop_requested").one()
        advice = session.get_one(RecommendationRow, job_id).data["findings"]["advice"]
    assert "WARPTUNE_MAX_JOB_SECONDS, 604800 seconds" in asked.data["cause"]
    count = "trial" if searched == 1 else f"{searched} trials"
    assert f"the job was stopped ({asked.data['cause']}), so each arm counts only its first {count}" in advice


def test_a_stopped_worker_gives_its_job_back_and_the_next_one_finishes_it(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit_to: SubmitTo,
    make_worker: MakeWorker,
    engine_name: str,
    tmp_path: Path,
) -> None:
    undisturbed = submit_to("optuna")
    assert make_worker().run_next()
    job_id = submit_to(engine_name)
    worker = make_worker(faults.slow)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(worker.run_next)
        wait_for((tmp_path / "point-12").exists)
        worker.stop()
        running.result(timeout=20)
    assert get_job(db, job_id).state == JobState.QUEUED
    assert [(t.state, t.attempts) for t in get_trials(db, job_id)] == [(COMPLETE, 1), (TrialState.QUEUED, 0)]
    assert running_in_optuna(storage) == []

    assert make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert ledger(db, job_id) == ledger(db, undisturbed)
