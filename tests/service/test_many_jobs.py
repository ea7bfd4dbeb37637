# Many small jobs and several workers, which are processes: every job runs once, and nobody waits for all of another's.
from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from service.api.app import create_app
from service.db.models import Arm, ConfirmRun, Event, Job, RecommendationRow, Trial
from service.db.session import Database
from service.ledger import keys
from service.settings import Settings
from service.states import ENDED_JOB, ArmState, JobState, TrialState

JOBS = 300
WORKERS = 3
TEN_ROWS = "a,b\n" + "\n".join(f"{row},{row * row % 7}.5" for row in range(10))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

Start = Callable[..., None]


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker process, whose slots train as a function of faults.py does; by default for real."""
    processes: list[subprocess.Popen[bytes]] = []
    environment = {
        **os.environ,
        "WARPTUNE_DATABASE_URL": settings.database_url,
        "WARPTUNE_ARTIFACTS_URL": settings.artifacts_url,
        "WARPTUNE_POLL_S": "0.1",
        "FAULTS_DIR": str(tmp_path),
    }

    def make(train: str = "default_train") -> None:
        command = [sys.executable, "-m", "tests.service.worker_process", train]
        with (tmp_path / "worker.log").open("a") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log))

    yield make
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(60)


@pytest.fixture
def client(settings: Settings, db: Database) -> Iterator[TestClient]:
    unlimited = settings.model_copy(update={"write_rate": "off", "read_rate": "off"})
    with TestClient(create_app(unlimited)) as opened:
        yield opened


def tiny(client: TestClient, trials: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The spec of a job on ten rows."""
    sent = {"params": {"filename": "ten.csv"}, "content": TEN_ROWS, "headers": headers}
    uploaded = client.post("/v1/datasets", **sent)  # type: ignore[arg-type]
    assert uploaded.status_code in (200, 201), uploaded.text
    return {
        "dataset": {"id": uploaded.json()["id"], "target": "b", "task": "regression"},
        "model": {"name": "mlp", "hidden": [1]},
        "search_space": {"preset": "quick"},
        "search": {"sampler": "random", "pruner": "none"},
        "budget": {"trials_per_arm": trials, "steps": 1, "batch_size": 2},
        "confirm": {"seeds": 6, "splits": 1, "top_k": 1},
    }


def wait_until(condition: Callable[[], Any], limit_s: float) -> float:
    """Wait until something is true; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, "the condition never came true"
        time.sleep(0.1)
    return time.monotonic() - began


def count_of(db: Database, table: Any, *where: Any) -> int:
    with db.read() as session:
        return session.scalar(select(func.count()).select_from(table).where(*where)) or 0


def test_three_hundred_jobs_on_three_workers_run_once_each(client: TestClient, db: Database, start: Start) -> None:
    specs = [tiny(client, trials) for trials in (1, 2)]
    began = time.monotonic()
    for index in range(JOBS):
        answer = client.post("/v1/jobs", json=specs[index % 2])
        assert answer.status_code == 202, answer.text
    submitted_s = time.monotonic() - began
    for _ in range(WORKERS):
        start()
    took_s = wait_until(lambda: count_of(db, Job, Job.state.in_(ENDED_JOB)) == JOBS, 1100)
    print(
        f"{JOBS} jobs: submitted in {submitted_s:.0f} s, done by {WORKERS} workers in {took_s:.0f} s"
    )  # see it with -s
    with db.read() as session:
        assert Counter(session.scalars(select(Job.state))) == {JobState.SUCCEEDED: JOBS}
        assert set(session.scalars(select(Job.lease_token))) == {1}, "a job was claimed twice"
        claimed = Event.kind == "claimed"
        claims = session.execute(select(Event.job_id, func.count()).where(claimed).group_by(Event.job_id))
        assert Counter(count for _, count in claims) == {1: JOBS}
        workers = {event.data["worker"] for event in session.scalars(select(Event).where(claimed))}
        assert len(workers) == WORKERS
        trials = session.execute(select(Trial.job_id, func.count()).group_by(Trial.job_id))
        assert Counter(count for _, count in trials) == {3: JOBS // 2, 5: JOBS // 2}
        runs = session.execute(
            select(ConfirmRun.job_id, func.count()).where(ConfirmRun.phase == "confirm").group_by(ConfirmRun.job_id)
        )
        assert Counter(count for _, count in runs) == {18: JOBS}
        for table in (Trial, ConfirmRun):
            ended = [(state, attempts) for state, attempts in session.execute(select(table.state, table.attempts))]
            assert set(ended) == {(TrialState.COMPLETE, 1)}
        assert set(session.scalars(select(Arm.state))) == {ArmState.COMPLETE}
    assert count_of(db, RecommendationRow) == JOBS


def copies(db: Database, job_id: str, count: int) -> None:
    """Queue more jobs like one. Rows are copied, which is faster than to submit each."""
    with db.write() as session:
        row = session.scalars(select(Job).where(Job.id == job_id)).one()
        columns = {name: getattr(row, name) for name in ("name", "dataset", "dataset_info", "spec", "owner")}
        session.add_all(Job(id=f"{job_id}-{index}", **columns) for index in range(count))


def test_five_hundred_jobs_of_one_owner_delay_the_first_trial_of_another_by_one_trial(
    client: TestClient, db: Database, start: Start
) -> None:
    senders = {
        owner: {"Authorization": f"Bearer {keys.create(db, owner, keys.Scope.SUBMIT)[0]}"} for owner in ("many", "one")
    }
    long = tiny(client, 10, senders["many"]) | {"budget": {"trials_per_arm": 10, "steps": 150, "batch_size": 2}}
    first = client.post("/v1/jobs", json=long, headers=senders["many"]).json()["id"]
    copies(db, first, 499)
    start("counted")  # 10 ms a step, so 1.5 s a trial
    wait_until(lambda: count_of(db, Trial, Trial.state == TrialState.COMPLETE) >= 2, 120)
    spec = tiny(client, 1, senders["one"])
    other = client.post("/v1/jobs", json=spec, headers=senders["one"]).json()["id"]
    began = time.monotonic()
    wait_until(lambda: count_of(db, Trial, Trial.job_id == other), 120)
    waited_s = time.monotonic() - began
    with db.read() as session:
        submitted_at = session.scalars(select(Job.created_at).where(Job.id == other)).one()
        ahead = select(Trial).where(Trial.job_id != other, Trial.finished_at > submitted_at)
        trials = session.scalars(ahead.order_by(Trial.started_at)).all()
    print(f"the first trial of the other owner began {waited_s:.1f} s after its job was submitted")
    assert len(trials) <= 2
    assert sum(trial.started_at > submitted_at for trial in trials if trial.started_at) <= 1
    wait_until(lambda: count_of(db, Job, Job.id == other, Job.state == JobState.SUCCEEDED), 240)
    wait_until(lambda: count_of(db, Job, Job.id == first, Job.state == JobState.RUNNING), 60)  # it goes on now
    assert count_of(db, Trial, Trial.state == TrialState.FAILED) == 0
