# What a worker leaves behind when it is killed or paused, and what the next one makes of it. The first worker is a
# process of its own; its slots train for real and count their steps.
from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest

from service.data.prepared import PreparedData
from service.db.models import Event, Job, Trial, TrialPoint
from service.db.session import Database
from service.engines.local import LocalEngine
from service.planning.plan import make_plan
from service.settings import Settings
from service.spec.job import JobSpec
from service.states import ENDED_JOB, JobState, TrialState
from service.training.loop import train
from service.worker import Worker
from tests.service import faults
from tests.service.conftest import Submit, WorkerMaker, get_job, get_trials, running_in_optuna

pytestmark = [
    pytest.mark.kills,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.timeout(300),  # two workers after each other load what they need, on a machine that may be busy
]

STEPS = 60
CHECKPOINT_EVERY_S = 0.1
STEPS_BETWEEN_POINTS = STEPS // 20
MOST_REDONE = int(CHECKPOINT_EVERY_S / faults.STEP_S) + 1 + STEPS_BETWEEN_POINTS
"""One interval, the step during which it ran out, and what an orphaned slot still did on its way to its next point."""

RAY = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

LEASE_S = 1.0
WAIT_S = 90.0

Start = Callable[..., subprocess.Popen[str]]


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker process."""
    processes: list[subprocess.Popen[str]] = []
    environment = {
        **os.environ,
        "WARPTUNE_DATABASE_URL": settings.database_url,
        "WARPTUNE_ARTIFACTS_URL": settings.artifacts_url,
        "WARPTUNE_LEASE_S": f"{LEASE_S:g}",
        "WARPTUNE_POLL_S": "0.1",
        "FAULTS_DIR": str(tmp_path),
    }

    def make(train: str = "counted") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.service.worker_process", train]
        with (tmp_path / "worker.log").open("a") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True))
        return processes[-1]

    yield make
    for process in processes:
        process.kill()
        process.communicate()


def steps_done(tmp_path: Path) -> Counter[str]:
    file = tmp_path / "steps"
    return Counter(file.read_text().split() if file.exists() else ())


def curve(db: Database, trial: Trial) -> list[tuple[int, float, float]]:
    with db.read() as session:
        rows = session.query(TrialPoint).filter_by(trial_id=trial.id).order_by(TrialPoint.step)
        return [(row.step, row.train_loss, row.val_loss) for row in rows]


def uninterrupted_curve(job: Job, trial: Trial, tmp_path: Path) -> list[tuple[int, float, float]]:
    """Train a trial of the job here, in one go."""
    plan = make_plan(JobSpec.model_validate(job.spec))
    assert job.data_sha256
    data = PreparedData(f"file://{tmp_path}/artifacts/jobs/{job.id}/data.npz", job.data_sha256)
    return [point[:3] for point in train(plan.run(trial.arm, trial.params, data, seed=plan.spec.seed, test=False))]


def small_job(submit: Submit, slots: int, engine: str = "optuna") -> str:
    return submit(
        engine={"name": engine},
        budget={"trials_per_arm": 2, "steps": STEPS, "batch_size": 32},
        resources={
            {"optuna": "slots", "ray": "max_concurrent"}[engine]: slots,
            "checkpoint_every_s": CHECKPOINT_EVERY_S,
        },
        search_space={"preset": "quick", "overrides": {"structure": "diagonal"}},
    )


def take_over(worker: Worker) -> None:
    """Run the job when its lease has run out."""
    wait_for(worker.run_next)


@pytest.mark.parametrize(
    ("engine", "slots", "after_steps"),
    [
        ("optuna", 1, STEPS + 45),
        pytest.param("ray", 1, STEPS + 45, marks=RAY),
        *(
            pytest.param(
                engine,
                1 + i % 2,
                15 + 22 * i,
                marks=[pytest.mark.slow, *marks],
                id=f"{engine}, {1 + i % 2} at once, after {15 + 22 * i} steps",
            )
            for engine, marks in (("optuna", []), ("ray", RAY))
            for i in range(10)
        ),
    ],
)
def test_the_next_worker_finishes_the_job_of_a_killed_one(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    make_worker: WorkerMaker,
    start: Start,
    tmp_path: Path,
    *,
    engine: str,
    slots: int,
    after_steps: int,
) -> None:
    job_id = small_job(submit, slots, engine)
    first = start()
    wait_for(lambda: steps_done(tmp_path).total() >= after_steps)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(LEASE_S)  # nobody renews the lease, and an orphaned slot comes to its next point
    before = {trial.number: (trial.state, trial.attempts, trial.finished_at) for trial in get_trials(db, job_id)}
    in_flight = [number for number, (state, *_) in before.items() if state == TrialState.RUNNING]
    steps_before = steps_done(tmp_path)

    if engine == "ray":
        start()  # it needs a Ray of its own
        wait_for(lambda: get_job(db, job_id).state in ENDED_JOB)
    else:
        take_over(make_worker(faults.counted))

    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert [(trial.state, trial.last_step) for trial in get_trials(db, job_id)] == [(TrialState.COMPLETE, STEPS)] * 5
    steps = steps_done(tmp_path)
    for trial in get_trials(db, job_id):
        name, redone = f"trial-{trial.number}", steps[f"trial-{trial.number}"] - STEPS
        state, attempts, finished_at = before.get(trial.number, (None, 0, None))
        if state == TrialState.COMPLETE:
            assert (trial.attempts, trial.finished_at, redone) == (attempts, finished_at, 0)
        elif trial.number in in_flight:
            assert trial.attempts == 2
            assert 0 <= redone <= min(steps_before[name], MOST_REDONE)
            assert curve(db, trial) == uninterrupted_curve(get_job(db, job_id), trial, tmp_path)
        else:
            assert (trial.attempts, redone) == (1, 0)
    assert running_in_optuna(storage) == []
    assert not (tmp_path / "artifacts/jobs" / job_id / "checkpoints").exists()


@pytest.mark.parametrize("cause", ["slot killed", "worker stopped"])
def test_a_trial_goes_on_from_its_checkpoint_when_its_slot_is_killed_or_its_worker_stopped(
    db: Database, submit: Submit, make_worker: WorkerMaker, tmp_path: Path, cause: str
) -> None:
    job_id = small_job(submit, 1)
    worker = make_worker(faults.counted)
    engine = worker._tools.engines["optuna"]
    assert isinstance(engine, LocalEngine)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(worker.run_next)
        wait_for(lambda: steps_done(tmp_path)["trial-0"] >= 45)
        if cause == "slot killed":
            os.kill(engine.slot_pids[0], signal.SIGKILL)
        else:
            worker.stop()
        running.result(timeout=WAIT_S)
    if cause == "worker stopped":
        assert get_job(db, job_id).state == JobState.QUEUED
        make_worker(faults.counted).run_next()
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    first = get_trials(db, job_id)[0]
    assert first.attempts == (2 if cause == "slot killed" else 1)
    assert 0 <= steps_done(tmp_path)["trial-0"] - STEPS <= MOST_REDONE
    assert curve(db, first) == uninterrupted_curve(get_job(db, job_id), first, tmp_path)


def test_a_job_that_reached_its_limit_of_seconds_stays_stopped_when_its_worker_is_killed(
    db: Database, submit: Submit, make_worker: WorkerMaker, start: Start, settings: Settings, tmp_path: Path
) -> None:
    job_id = small_job(submit, 1)
    first = start()
    wait_for(lambda: steps_done(tmp_path).total() >= 10)
    with db.write() as session:
        session.query(Job).filter_by(id=job_id).update({"worker_seconds": settings.max_job_seconds})
    wait_for(lambda: get_job(db, job_id).stop_requested)
    first.send_signal(signal.SIGKILL)
    first.wait()
    used = get_job(db, job_id).worker_seconds
    assert used >= settings.max_job_seconds
    take_over(make_worker(faults.counted))
    job = get_job(db, job_id)
    assert job.state == JobState.SUCCEEDED
    assert job.worker_seconds > used
    arms = Counter(trial.arm for trial in get_trials(db, job_id))
    assert arms["adamw"] == arms["warpadam"]
    with db.read() as session:
        assert session.query(Event).filter_by(job_id=job_id, kind="stop_requested").count() == 1


def everything(tmp_path: Path) -> tuple[list[str], list[tuple[str, bytes]]]:
    """Return every row of every table, Optuna's too, and every file of the store."""
    connection = sqlite3.connect(tmp_path / "warptune.db")
    try:
        rows = list(connection.iterdump())
    finally:
        connection.close()
    files = sorted(path for path in (tmp_path / "artifacts").rglob("*") if path.is_file())
    return rows, [(str(path), path.read_bytes()) for path in files]


def test_a_worker_that_was_paused_for_longer_than_its_lease_writes_nothing_when_it_wakes_up(
    db: Database, submit: Submit, make_worker: WorkerMaker, start: Start, tmp_path: Path
) -> None:
    job_id = small_job(submit, 1)
    paused = start()
    wait_for(lambda: steps_done(tmp_path).total() >= STEPS + 30)
    paused.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_S)
    take_over(make_worker(faults.counted))
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    after = everything(tmp_path)
    paused.send_signal(signal.SIGCONT)
    log = tmp_path / "worker.log"
    wait_for(lambda: "job lost to another worker" in log.read_text())
    paused.terminate()
    said, _ = paused.communicate(timeout=WAIT_S)
    assert said.split() == ["no", "torch"]
    assert everything(tmp_path) == after


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("random", marks=pytest.mark.slow)])
def test_a_worker_runs_a_whole_job_without_torch(db: Database, submit: Submit, start: Start, sampler: str) -> None:
    job_id = submit(
        search={"sampler": sampler, "pruner": "asha"},
        budget={"trials_per_arm": 11, "steps": 2, "batch_size": 32},
        confirm={"top_k": 2, "seeds": 6},
    )
    worker = start()
    wait_for(lambda: get_job(db, job_id).state == JobState.SUCCEEDED)
    worker.terminate()
    assert worker.communicate(timeout=WAIT_S)[0].strip() == "no torch"
