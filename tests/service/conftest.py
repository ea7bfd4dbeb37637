"""Fixtures that run jobs with the real worker, in this process, on real slot processes.

All tests of a session share one engine, because its slots take seconds to load torch. A test that needs a faulty
training loop gets an engine of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from service.artifacts import ArtifactStore
from service.data.reader import Readers
from service.db.models import Job, Trial
from service.db.session import Database
from service.engines.base import Train
from service.engines.local import LocalEngine
from service.ledger import jobs
from service.planning.plan import make_plan
from service.settings import Settings
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec
from service.submission import Context
from service.user_code.probe import UserCode
from service.worker import Worker
from tests.conftest import SpecMaker
from tests.service.live import Live, serve

WorkerMaker = Callable[..., Worker]
Submit = Callable[..., str]


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[LocalEngine]:
    """An engine with the real training loop."""
    engine = LocalEngine()
    yield engine
    engine.close()


@pytest.fixture
def make_worker(
    settings: Settings,
    db: Database,
    storage: optuna.storages.RDBStorage,
    shared_engine: LocalEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[WorkerMaker]:
    """Makes a worker. Pass ``train`` to replace the training loop in its slots."""
    engines: list[LocalEngine] = []
    monkeypatch.setenv("FAULTS_DIR", str(tmp_path))

    def make(train: Train | None = None) -> Worker:
        engine = shared_engine
        if train is not None:
            engine = LocalEngine(train)
            engines.append(engine)
        return Worker(settings, db, storage, {"optuna": engine})

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def submit(db: Database, spec: SpecMaker) -> Submit:
    """Queues a job and returns its id."""

    def queue(**parts: Any) -> str:
        return queue_job(db, JobSpec.model_validate(spec(**parts)))

    return queue


def queue_job(db: Database, spec: JobSpec, info: DatasetInfo | None = None) -> str:
    """Queue a job that has no files and return its id."""
    arms = [arm.name for arm in make_plan(spec, info).arms]
    with db.write() as session:
        return jobs.add(session, spec, arms, info).id


def get_job(db: Database, job_id: str) -> Job:
    """Return the row of a job."""
    with db.read() as session:
        return jobs.require_job(session, job_id)


def get_trials(db: Database, job_id: str, arm: str | None = None) -> list[Trial]:
    """Return the trials of a job, by number."""
    with db.read() as session:
        rows = session.query(Trial).filter(Trial.job_id == job_id).order_by(Trial.number).all()
    return [row for row in rows if arm in (None, row.arm)]


def running_in_optuna(storage: optuna.storages.RDBStorage) -> list[int]:
    """Return the ids of the trials that are running according to Optuna."""
    wanted = (optuna.trial.TrialState.RUNNING,)
    return [
        trial._trial_id
        for study in storage.get_all_studies()
        for trial in storage.get_all_trials(study._study_id, deepcopy=False, states=wanted)
    ]


@pytest.fixture
def context(db: Database, settings: Settings) -> Context:
    """What a submission reads and writes."""
    return Context(db, ArtifactStore(settings.artifacts_url), UserCode(settings), Readers(settings), settings)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The API behind a real HTTP server."""
    with serve(tmp_path_factory.mktemp("live")) as running:
        yield running
