from __future__ import annotations

import errno
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from service import processes
from service import worker as worker_module
from service.api.pages.report import make_report
from service.artifacts import DATA_FILE, PREPROCESSING_FILE, ArtifactStore, split_file, write_artifact
from service.db.models import ConfirmRun, Event, RecommendationRow, TrialPoint
from service.db.session import Database
from service.db.studies import delete_studies
from service.engines.base import Assignment, Work
from service.engines.local import LocalEngine
from service.errors import EngineLostError, StorageFullError
from service.ledger import jobs, queries, runs
from service.ledger.removal import remove_job
from service.ledger.runs import MAX_WORKER_DEATHS, RunLog
from service.result.job_result import JobResult
from service.running.arm_study import NO_LOSS
from service.running.confirm_runs import ConfirmRuns, fresh_seeds
from service.settings import Settings
from service.spec.job import JobSpec
from service.states import ENDED_JOB, JobState, TrialState
from service.training.run import CurvePoint
from service.worker import Worker
from tests.service import faults
from tests.service.conftest import Submit, WorkerMaker, get_job, get_trials, running_in_optuna

# On SQLite in the fast suite, on PostgreSQL too in the slow one; the ledger's own tests always run on both.
pytestmark = pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.slow])],
    indirect=True,
)

COMPLETE, FAILED, DIVERGED, PRUNED = TrialState.COMPLETE, TrialState.FAILED, TrialState.DIVERGED, TrialState.PRUNED


def states(db: Database, job_id: str, arm: str | None = None) -> list[TrialState]:
    return [trial.state for trial in get_trials(db, job_id, arm)]


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def test_a_job_ends_with_a_recommendation_and_everything_in_sql(
    db: Database, storage: optuna.storages.RDBStorage, submit: Submit, make_worker: WorkerMaker, tmp_path: Path
) -> None:
    job_id = submit()
    assert make_worker().run_next()

    job = get_job(db, job_id)
    assert (job.state, job.cause) == (JobState.SUCCEEDED, None)
    assert job.started_at
    assert job.finished_at
    kept = tmp_path / "artifacts" / "jobs" / job_id
    assert (kept / "data.npz").is_file()
    assert job.stored_bytes == sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
    assert states(db, job_id, "warpadam") == [COMPLETE] * 2
    assert states(db, job_id, "adamw") == [COMPLETE] * 2
    assert states(db, job_id, "adamw_default") == [COMPLETE]
    with db.read() as session:
        points = session.query(TrialPoint).count()
        runs = session.query(ConfirmRun).all()
        result = session.query(RecommendationRow).one()
        kinds = [event.kind for event in session.query(Event).order_by(Event.id)]
    assert points == 5 * 10  # one a step in a run of 10 steps
    confirmed = [run for run in runs if run.phase == "confirm"]
    arms = ("warpadam", "adamw", "adamw_default")
    assert {(run.arm, run.seed) for run in confirmed} == {(arm, seed) for arm in arms for seed in range(1, 7)}
    assert {run.arm for run in runs if run.phase == "select"} == {"warpadam", "adamw"}
    assert all(run.state == COMPLETE and run.test_loss is not None for run in confirmed)
    assert result.arm in ("warpadam", "adamw")
    assert len(result.data["pairs"]) == 6
    assert kinds[:2] == ["submitted", "claimed"]
    assert kinds[-1] == "succeeded"
    names = {study.study_name for study in optuna.get_all_study_summaries(storage)}
    assert names == {f"{job_id}/{arm}" for arm in arms}


def test_a_worker_fails_a_job_that_its_machine_cannot_do(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit(resources={"cpus_per_trial": 256})  # a service whose workers are elsewhere has accepted it
    make_worker().run_next()
    job, cpus = get_job(db, job_id), processes.machine_cpus()
    assert job.state == JobState.FAILED
    wrong = f"resources.cpus_per_trial: must be at most {cpus}, the CPUs of the worker's machine (got 256)"
    assert job.cause == f"{wrong}. The setting WARPTUNE_WORKER_CPUS decides it."
    assert get_trials(db, job_id) == []


def test_the_same_seed_and_one_slot_give_the_same_trials_and_runs(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    search = {"sampler": "tpe", "pruner": "asha"}
    budget = {"trials_per_arm": 12, "steps": 20, "batch_size": 32}
    ids = [submit(search=search, budget=budget, seed=3) for _ in range(2)]
    worker = make_worker()
    while worker.run_next():
        pass
    first, second = ([(t.arm, t.params, t.state, t.value, t.last_step) for t in get_trials(db, i)] for i in ids)
    assert first == second
    with db.read() as session:
        rows = [session.get_one(RecommendationRow, job_id).data for job_id in ids]
    assert rows[0]["config"] == rows[1]["config"]
    assert rows[0]["pairs"] == rows[1]["pairs"]


def test_a_trial_that_raises_is_failed_with_its_cause_and_the_job_goes_on(
    db: Database, storage: optuna.storages.RDBStorage, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit()
    make_worker(faults.second_run_raises).run_next()
    trials = get_trials(db, job_id)
    assert [trial.state for trial in trials] == [COMPLETE, FAILED, COMPLETE, COMPLETE, COMPLETE]
    assert trials[1].cause is not None
    assert trials[1].cause.startswith("RuntimeError: the second run is broken")
    assert "faults.py" in trials[1].cause
    assert trials[1].attempts == 1
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert running_in_optuna(storage) == []


def test_a_trial_whose_loss_is_not_finite_is_diverged_and_optuna_learns_from_it(
    db: Database, storage: optuna.storages.RDBStorage, submit: Submit, make_worker: WorkerMaker
) -> None:
    space = {"preset": "quick", "overrides": {"lr": [1e30, 0.01]}}
    budget = {"trials_per_arm": 6, "steps": 10, "batch_size": 32}
    job_id = submit(search_space=space, budget=budget)
    make_worker().run_next()
    trials = get_trials(db, job_id, "warpadam")
    diverged = [trial for trial in trials if trial.params["lr"] == 1e30]
    assert diverged
    assert len(diverged) < len(trials)
    assert {trial.state for trial in diverged} == {DIVERGED}
    assert all(trial.cause and "loss is" in trial.cause for trial in diverged)
    assert {trial.state for trial in trials if trial.params["lr"] == 0.01} == {COMPLETE}
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    study = optuna.load_study(study_name=f"{job_id}/warpadam", storage=storage)
    told = {trial.user_attrs["trial"]: trial for trial in study.trials}
    for trial in diverged:
        assert told[trial.number].state == optuna.trial.TrialState.PRUNED
        earlier = [t.value for t in trials if t.number < trial.number and t.value is not None]
        assert told[trial.number].value == (max(earlier) if earlier else NO_LOSS)


@pytest.mark.kills
def test_a_killed_slot_costs_one_attempt_and_the_trial_ends_as_if_nothing_had_happened(
    db: Database, storage: optuna.storages.RDBStorage, submit: Submit, make_worker: WorkerMaker
) -> None:
    undisturbed = submit()
    make_worker().run_next()
    job_id = submit()
    make_worker(faults.second_run_killed_once).run_next()
    trials = get_trials(db, job_id)
    assert [trial.attempts for trial in trials] == [1, 2, 1, 1, 1]
    assert [t.value for t in trials] == [t.value for t in get_trials(db, undisturbed)]
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert running_in_optuna(storage) == []
    with db.read() as session:
        assert session.query(TrialPoint).filter(TrialPoint.trial_id == trials[1].id).count() == 10
        retried = session.query(Event).filter(Event.kind == "trial_retried").one()
    assert (retried.data["trial"], retried.data["arm"]) == (1, "warpadam")
    assert retried.data["cause"].startswith("its slot process was killed")


@pytest.mark.kills
def test_a_trial_whose_slot_is_killed_every_time_is_failed_and_the_job_goes_on(
    db: Database, storage: optuna.storages.RDBStorage, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit()
    make_worker(faults.one_config_always_killed).run_next()
    trials = get_trials(db, job_id)
    assert [trial.state for trial in trials] == [COMPLETE, FAILED, COMPLETE, COMPLETE, COMPLETE]
    assert trials[1].attempts == 2
    assert (trials[1].cause or "").startswith("its slot process was killed")
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert running_in_optuna(storage) == []


def test_an_arm_without_a_completed_trial_fails_the_job_and_says_why(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit(search_space={"preset": "quick", "overrides": {"lr": 1e30}})
    make_worker().run_next()
    job = get_job(db, job_id)
    assert job.state == JobState.FAILED
    assert job.cause is not None
    assert job.cause.startswith("arm warpadam completed no trial (trials: 2 diverged); the last cause: the")


def test_a_job_goes_on_without_the_arm_that_nobody_tunes_if_that_completed_no_trial(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit()
    make_worker(faults.untuned_raises).run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert states(db, job_id, "adamw_default") == [FAILED]
    with db.read() as session:
        result = JobResult.from_json(session.get_one(RecommendationRow, job_id).data)
        shown = make_report(get_job(db, job_id), result, queries.confirm_runs(session, job_id))
    assert [finalist.arm for finalist in result.finalists] == ["warpadam", "adamw"]
    left_out = "adamw_default completed no trial and is left out: RuntimeError: the config is broken"
    assert any(sentence.startswith(left_out) for sentence in result.findings.advice)
    assert left_out in shown


@pytest.mark.parametrize("train", [faults.slow, faults.hangs], ids=["between points", "hanging"])
def test_cancel_stops_a_running_trial(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    make_worker: WorkerMaker,
    train: Callable[..., object],
    tmp_path: Path,
) -> None:
    job_id = submit()
    worker = make_worker(train)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(worker.run_next)
        wait_for(lambda: any(tmp_path.glob("point-*")) or any(tmp_path.glob("hanging-*")))
        jobs.cancel(db, job_id)
        assert running.result(timeout=20)
    assert get_job(db, job_id).state == JobState.CANCELLED
    (trial,) = get_trials(db, job_id)
    assert (trial.state, trial.cause) == (PRUNED, "the job was cancelled before the run was over")
    assert running_in_optuna(storage) == []


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "released"])
def test_the_worker_removes_the_checkpoints_of_a_job_that_ended_and_of_no_other(
    db: Database, submit: Submit, make_worker: WorkerMaker, settings: Settings, end: str
) -> None:
    overrides = {"structure": "diagonal", **({"lr": 1e30} if end == "failed" else {})}
    job_id = submit(search_space={"preset": "quick", "overrides": overrides})
    artifacts = ArtifactStore(settings.artifacts_url)
    left_behind = f"{artifacts.checkpoint_url(job_id, 'trial-99')}/step-000000001.ckpt"
    write_artifact(left_behind, b"state")
    worker = make_worker()
    if end in ("cancelled", "released"):
        worker = make_worker(faults.hangs)
        with ThreadPoolExecutor() as pool:
            running = pool.submit(worker.run_next)
            wait_for(lambda: bool(get_trials(db, job_id)))
            if end == "cancelled":
                jobs.cancel(db, job_id)
            else:
                worker.stop()
            running.result(timeout=20)
    else:
        worker.run_next()
    assert get_job(db, job_id).state == (JobState.QUEUED if end == "released" else end)
    assert Path(left_behind.removeprefix("file://")).exists() == (end == "released")


def test_the_cap_on_seconds_ends_every_arm(db: Database, submit: Submit, make_worker: WorkerMaker) -> None:
    budget = {"trials_per_arm": 10_000, "steps": 10, "batch_size": 32, "max_seconds": 2.0}
    job_id = submit(budget=budget)
    make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    with db.read() as session:
        rows = session.query(Event).filter(Event.kind == "arm_finished").order_by(Event.id)
        ended = [event.data for event in rows]
    assert [(data["arm"], data["reason"]) for data in ended] == [
        ("warpadam", "max_seconds"),
        ("adamw", "max_seconds"),
        ("adamw_default", "trials_per_arm"),
    ]
    assert all(data["seconds"] >= 2.0 for data in ended[:2])


def test_a_stopped_worker_gives_its_job_back_and_the_next_one_finishes_it(
    db: Database, storage: optuna.storages.RDBStorage, submit: Submit, make_worker: WorkerMaker, tmp_path: Path
) -> None:
    undisturbed = submit()
    make_worker().run_next()
    job_id = submit()
    worker = make_worker(faults.slow)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(worker.run_next)
        wait_for(lambda: len(get_trials(db, job_id)) == 2 and (tmp_path / "point-12").exists())
        worker.stop()
        running.result(timeout=20)
    assert get_job(db, job_id).state == JobState.QUEUED
    assert states(db, job_id) == [COMPLETE, TrialState.QUEUED]
    assert get_trials(db, job_id)[1].attempts == 0
    assert running_in_optuna(storage) == []

    make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    same = [(t.params, t.value, t.attempts) for t in get_trials(db, undisturbed, "warpadam")]
    assert [(t.params, t.value, t.attempts) for t in get_trials(db, job_id, "warpadam")] == same


def test_a_worker_that_lost_its_lease_stops_and_writes_nothing_more(
    db: Database, submit: Submit, make_worker: WorkerMaker, tmp_path: Path
) -> None:
    job_id = submit()
    worker = make_worker(faults.slow)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(worker.run_next)
        wait_for(lambda: any(tmp_path.glob("point-*")))

        def is_taken_over() -> bool:
            with db.write() as session:
                jobs.require_job(session, job_id).lease_expires_s = 0.0
            return runs.claim(db, "another", 10.0) is not None

        wait_for(is_taken_over)  # the worker may renew its lease before the claim
        before = [(t.state, t.last_step) for t in get_trials(db, job_id)]
        running.result(timeout=20)
    assert get_job(db, job_id).state == JobState.RUNNING
    assert get_job(db, job_id).lease_worker == "another"
    assert [(t.state, t.last_step) for t in get_trials(db, job_id)] == before


@pytest.mark.parametrize("name", [PREPROCESSING_FILE, DATA_FILE, split_file(3)])
def test_a_worker_that_wakes_up_after_its_job_was_deleted_leaves_no_file(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    make_worker: WorkerMaker,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    job_id = submit()
    put, late = ArtifactStore.put, list[str]()

    def put_late(store: ArtifactStore, owner: str, file: str, content: Any) -> str:
        if file == name and not late:
            with db.write() as session:
                jobs.require_job(session, job_id).lease_expires_s = 0.0
            jobs.cancel(db, job_id)
            remove_job(db, store, partial(delete_studies, storage), job_id)
            late.append(name)
        return put(store, owner, file, content)

    monkeypatch.setattr(ArtifactStore, "put", put_late)
    assert make_worker().run_next()
    assert late == [name]
    assert ArtifactStore(settings.artifacts_url).files() == []


def test_workers_side_by_side_share_out_the_jobs(
    settings: Settings,
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
) -> None:
    ids = [submit(budget={"trials_per_arm": 1, "steps": 2, "batch_size": 32}) for _ in range(4)]
    engines = [LocalEngine(), LocalEngine()]
    workers = [Worker(settings, db, storage, {"optuna": engine}) for engine in engines]

    def drain(worker: Worker) -> None:
        while worker.run_next():
            pass

    threads = [threading.Thread(target=drain, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        engine.close()
    assert [get_job(db, job_id).state for job_id in ids] == [JobState.SUCCEEDED] * 4
    with db.read() as session:
        claims = session.query(Event).filter(Event.kind == "claimed").all()
    assert sorted(event.job_id for event in claims) == sorted(ids)
    assert all(len(get_trials(db, job_id)) == 3 for job_id in ids)


def test_with_several_finalists_fresh_seeds_on_validation_pick_one_of_each_arm(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    confirm = {"top_k": 2, "seeds": 6}
    job_id = submit(confirm=confirm, resources={"slots": 2})
    make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    with db.read() as session:
        runs = session.query(ConfirmRun).all()
    chosen = {run.trial_number for run in runs if run.phase == "confirm"}
    assert len(chosen) == 3
    spec = JobSpec.model_validate(get_job(db, job_id).spec)
    assert not set(fresh_seeds(spec, "select")) & set(fresh_seeds(spec, "confirm"))
    for arm in ("warpadam", "adamw"):
        means: dict[int, float] = {}
        for run in runs:
            if run.phase == "select" and run.arm == arm:
                assert run.val_loss is not None
                assert run.test_loss is not None  # it tells what luck there is in the choice, and decides nothing
                means[run.trial_number] = means.get(run.trial_number, 0.0) + run.val_loss
        assert min(means, key=means.__getitem__) in chosen


def test_the_best_trials_race_and_each_fresh_seed_has_its_own_split(
    db: Database, submit: Submit, make_worker: WorkerMaker, settings: Settings
) -> None:
    job_id = submit(budget={"trials_per_arm": 4, "steps": 10}, confirm={"top_k": 4, "seeds": 6})
    make_worker().run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    with db.read() as session:
        runs = session.query(ConfirmRun).all()
    for arm in ("warpadam", "adamw"):
        raced = Counter(run.seed for run in runs if run.phase == "select" and run.arm == arm)
        assert [raced[seed] for seed in sorted(raced)] == [4, 3, 2, 2]
        last = max(raced)
        survivors = {run.trial_number for run in runs if run.seed == last and run.arm == arm}
        (winner,) = {run.trial_number for run in runs if run.phase == "confirm" and run.arm == arm}
        assert winner in survivors
    with db.read() as session:
        result = JobResult.from_json(session.get_one(RecommendationRow, job_id).data)
    assert result.statistics is not None
    assert result.statistics.luck_interval is not None
    store = ArtifactStore(settings.artifacts_url)
    drawn = {run.seed for run in runs if run.seed != 1}
    files = [store.get(job_id, split_file(seed)) for seed in drawn]
    assert len({store.get(job_id, DATA_FILE), *files}) == len(drawn) + 1
    assert None not in files


def test_gpus_that_are_not_there_fail_the_job_with_what_the_worker_has(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit(resources={"slots": 2, "gpus_per_trial": 1.5})
    make_worker().run_next()
    job = get_job(db, job_id)
    assert job.state == JobState.FAILED
    assert job.cause is not None
    assert "2 slots x 1.5 GPUs need 3 CUDA devices" in job.cause


def test_a_ledger_that_is_away_for_a_moment_costs_no_job(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    worker = make_worker()
    finish_trial, calls = RunLog.finish_trial, []

    def away_once(log: RunLog, trial_id: int, *how: Any) -> None:
        calls.append(trial_id)
        if len(calls) == 1:
            raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))
        finish_trial(log, trial_id, *how)

    monkeypatch.setattr(RunLog, "finish_trial", away_once)
    with pytest.raises(OperationalError):
        worker.run_next()
    assert get_job(db, job_id).state == JobState.RUNNING
    with db.write() as session:
        jobs.require_job(session, job_id).lease_expires_s = 0.0  # as it is when nobody renews it
    assert worker.run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert [trial.attempts for trial in get_trials(db, job_id)] == [2, 1, 1, 1, 1]


def of_optuna(cause: Exception) -> Exception:
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("wrap", [lambda error: error, of_optuna])
@pytest.mark.parametrize("kind", [OperationalError, IntegrityError])
def test_a_job_whose_write_the_ledger_refuses_each_time_fails_at_once(
    db: Database,
    submit: Submit,
    make_worker: WorkerMaker,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[DBAPIError],
    wrap: Callable[[Exception], Exception],
) -> None:
    def refused(*_: Any) -> None:
        original = sqlite3.OperationalError("too many SQL variables")
        original.sqlite_errorcode = sqlite3.SQLITE_ERROR
        raise wrap(kind("INSERT", {}, original))

    job_id = submit()
    monkeypatch.setattr(RunLog, "finish_trial", refused)
    assert make_worker().run_next()
    job = get_job(db, job_id)
    assert job.state == JobState.FAILED
    assert (job.cause or "").startswith("internal error: ")


def test_a_run_is_not_to_blame_for_a_ledger_that_is_away_again_and_again(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    worker = make_worker()
    progress, breaks = ConfirmRuns.progress, [0]

    def away(runs: ConfirmRuns, assignment: Assignment, point: CurvePoint) -> bool:
        if breaks[0] <= MAX_WORKER_DEATHS:
            breaks[0] += 1
            raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))
        return progress(runs, assignment, point)

    monkeypatch.setattr(ConfirmRuns, "progress", away)
    for _ in range(MAX_WORKER_DEATHS + 1):
        with pytest.raises(OperationalError):
            worker.run_next()
        with db.write() as session:
            jobs.require_job(session, job_id).lease_expires_s = 0.0
    assert worker.run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    with db.read() as session:
        assert {(run.state, run.worker_deaths) for run in session.query(ConfirmRun)} == {(COMPLETE, 0)}


def test_another_worker_sees_by_its_checkpoint_how_far_a_confirmation_run_had_come(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    job_id = submit()
    first, store = make_worker(), ArtifactStore(settings.artifacts_url)

    def die(runs: ConfirmRuns, assignment: Assignment, point: CurvePoint) -> bool:
        raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))

    def run_id() -> int:
        with db.read() as session:
            return session.query(ConfirmRun.id).filter(ConfirmRun.state == TrialState.RUNNING).one()[0]

    with monkeypatch.context() as broken:
        broken.setattr(ConfirmRuns, "progress", die)
        with pytest.raises(OperationalError):
            first.run_next()
    write_artifact(f"{store.checkpoint_url(job_id, f'confirm-{run_id()}')}/step-000000007.ckpt", b"")
    with db.write() as session:
        jobs.require_job(session, job_id).lease_expires_s = 0.0
    broken_run = run_id()
    assert make_worker().run_next()
    with db.read() as session:
        row = session.get_one(ConfirmRun, broken_run)
    assert (row.state, row.worker_deaths, row.furthest_step) == (COMPLETE, 0, 7)


def test_the_death_of_an_engine_is_that_of_its_worker_and_the_job_goes_on_when_its_lease_has_run_out(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    worker = make_worker()
    monkeypatch.setattr(worker, "_settings", worker._settings.model_copy(update={"lease_s": 1.0}))
    engine = worker._tools.engines["optuna"]
    original, calls = engine.run, Counter[str]()

    def dies_in_its_first_run(work: Work, *arguments: Any) -> None:
        calls["run"] += 1
        if calls["run"] > 1:
            return original(work, *arguments)
        assignment = work.next()
        assert assignment is not None
        work.started(assignment)
        raise EngineLostError("its processes have died")

    monkeypatch.setattr(engine, "run", dies_in_its_first_run)
    thread = threading.Thread(target=worker.run_forever)
    thread.start()
    wait_for(lambda: get_job(db, job_id).state in ENDED_JOB, 60.0)
    worker.stop()
    thread.join()
    job = get_job(db, job_id)
    assert (job.state, job.cause, job.lease_token) == (JobState.SUCCEEDED, None, 2)
    first, *others = get_trials(db, job_id)
    assert (first.state, first.attempts, first.losses, first.worker_deaths) == (COMPLETE, 2, 0, 1)
    assert {trial.worker_deaths for trial in others} == {0}


def test_a_job_whose_data_would_change_in_the_middle_fails(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit()
    with db.write() as session:
        jobs.require_job(session, job_id).data_sha256 = "0" * 64
    make_worker().run_next()
    job = get_job(db, job_id)
    assert job.state == JobState.FAILED
    assert "the trials so far were trained on 000000" in (job.cause or "")


def test_a_spec_of_another_version_fails_its_job_and_not_its_worker(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit()
    with db.write() as session:
        job = jobs.require_job(session, job_id)
        job.spec = {**job.spec, "from_the_future": 1}
    assert make_worker().run_next()
    assert get_job(db, job_id).state == JobState.FAILED
    assert "from_the_future" in (get_job(db, job_id).cause or "")


def test_a_full_disk_gives_the_job_back_and_it_goes_on_when_there_is_room(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, job_id = submit(), submit()
    worker = make_worker()
    assert worker.run_next()
    with monkeypatch.context() as full:

        def write(*_: object) -> str:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(ArtifactStore, "put", write)
        for _ in range(MAX_WORKER_DEATHS + 1):
            with pytest.raises(StorageFullError, match="No space left on device"):
                worker.run_next()
            assert get_job(db, job_id).state == JobState.QUEUED
    finish_trial = RunLog.finish_trial
    with monkeypatch.context() as full:

        def finish(log: RunLog, trial_id: int, *how: Any) -> None:
            if get_trials(db, job_id)[-1].number == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            finish_trial(log, trial_id, *how)

        full.setattr(RunLog, "finish_trial", finish)
        for _ in range(MAX_WORKER_DEATHS + 1):
            with pytest.raises(StorageFullError):
                worker.run_next()
    assert worker.run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    ended = [[(t.params, t.state, t.value) for t in get_trials(db, i)] for i in (undisturbed, job_id)]
    assert ended[0] == ended[1]


def test_a_full_disk_of_the_database_gives_the_job_back_too(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    worker = make_worker()
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    error = OperationalError("UPDATE job_trials", {}, full)
    for raised in (error, of_optuna(error)):

        def finish(*_: object, raised: Exception = raised) -> None:
            raise raised

        with monkeypatch.context() as broken:
            broken.setattr(RunLog, "finish_trial", finish)
            with pytest.raises(StorageFullError, match="disk is full"):
                worker.run_next()
        assert get_job(db, job_id).state == JobState.QUEUED
    assert {(trial.attempts, trial.worker_deaths) for trial in get_trials(db, job_id)} == {(0, 0)}


@pytest.mark.parametrize("error", [StorageFullError("a disk is full"), OSError(errno.ESTALE, "Stale file handle")])
def test_a_worker_takes_no_job_while_a_disk_is_below_the_floor_or_cannot_be_asked(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    job_id = submit()
    worker = make_worker()
    looked, room = [], [False]

    def look(settings: Settings) -> None:
        looked.append(get_job(db, job_id).state)
        if not room[0]:
            room[0] = len(looked) == 2
            raise error
        if looked[-1] == JobState.SUCCEEDED:
            worker.stop()

    monkeypatch.setattr(worker_module, "require_room", look)
    monkeypatch.setattr(worker_module, "FULL_PAUSE_S", 0.01)
    monkeypatch.setattr(worker_module, "AWAY_PAUSE_S", 0.01)
    worker.run_forever()
    assert looked[:3] == [JobState.QUEUED] * 3
    assert get_job(db, job_id).state == JobState.SUCCEEDED
