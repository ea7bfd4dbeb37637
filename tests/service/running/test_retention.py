# What is older than the operator keeps it is deleted with everything that belongs to it, and nothing else.
from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest

from service.artifacts import ArtifactStore
from service.db.models import DatasetRow, Job, utc_now
from service.db.session import Database
from service.db.studies import delete_studies
from service.ledger import audit, jobs
from service.running import retention as module
from service.running.retention import Retention
from service.settings import Settings
from service.states import JobState
from tests.service.conftest import Submit

OLD, YOUNG = timedelta(days=10), timedelta(days=1)


@pytest.fixture
def retention(settings: Settings, db: Database, storage: optuna.storages.RDBStorage) -> Callable[..., Retention]:
    """Makes what sweeps, with the days that things are kept."""

    def make(**days: float) -> Retention:
        kept = settings.model_copy(update=days)
        return Retention(kept, db, ArtifactStore(settings.artifacts_url), partial(delete_studies, storage))

    return make


def end(db: Database, job_id: str, ago: timedelta, state: JobState = JobState.SUCCEEDED) -> None:
    with db.write() as session:
        job = jobs.require_job(session, job_id)
        job.state, job.finished_at = state, utc_now() - ago


def add_dataset(db: Database, settings: Settings, tmp_path: Path, dataset_id: str, ago: timedelta) -> None:
    folder = tmp_path / dataset_id
    folder.mkdir()
    (folder / "x.npy").write_bytes(b"x")
    with ArtifactStore(settings.artifacts_url).staged_dataset(dataset_id, folder) as put_files:
        put_files()
    facts: dict[str, Any] = {"name": "a.csv", "format": "csv", "sha256": "", "size_bytes": 1, "facts": {}}
    with db.write() as session:
        session.add(DatasetRow(id=dataset_id, created_at=utc_now() - ago, **facts))


def left(db: Database) -> tuple[set[str], set[str]]:
    with db.read() as session:
        return {job.id for job in session.query(Job)}, {row.id for row in session.query(DatasetRow)}


def test_only_what_has_ended_and_is_old_is_deleted(
    db: Database,
    settings: Settings,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    retention: Callable[..., Retention],
) -> None:
    old, failed, young, waiting, running = (submit() for _ in range(5))
    end(db, old, OLD)
    end(db, failed, OLD, JobState.FAILED)
    end(db, young, YOUNG)
    end(db, running, OLD, JobState.RUNNING)
    store = ArtifactStore(settings.artifacts_url)
    for job_id in (old, young):
        store.put(job_id, "data.npz", b"data")
        optuna.create_study(study_name=f"{job_id}/adamw", storage=storage)
    retention().sweep()
    assert len(left(db)[0]) == 5
    retention(keep_jobs_days=5).sweep()
    assert left(db)[0] == {young, waiting, running}
    assert store.files() == [f"jobs/{young}/data.npz"]
    assert [study.study_name for study in storage.get_all_studies()] == [f"{young}/adamw"]
    with db.read() as session:
        found = audit.page(session, 10, None)
    assert {(row.who, row.operation, row.target) for row in found} == {
        ("retention", "delete_job", old),
        ("retention", "delete_job", failed),
    }


def test_a_dataset_that_a_job_uses_is_kept_until_the_job_is_deleted(
    db: Database, settings: Settings, tmp_path: Path, submit: Submit, retention: Callable[..., Retention]
) -> None:
    for dataset_id, ago in (("ds-used", OLD), ("ds-old", OLD), ("ds-young", YOUNG)):
        add_dataset(db, settings, tmp_path, dataset_id, ago)
    job_id = submit()
    with db.write() as session:
        jobs.require_job(session, job_id).dataset = "ds-used"
    end(db, job_id, OLD)
    retention(keep_datasets_days=5).sweep()
    assert left(db) == ({job_id}, {"ds-used", "ds-young"})
    assert {name.split("/")[1] for name in ArtifactStore(settings.artifacts_url).files()} == {"ds-used", "ds-young"}
    retention(keep_datasets_days=5, keep_jobs_days=5).sweep()
    assert left(db) == (set(), {"ds-young"})


def test_one_thing_that_cannot_be_deleted_keeps_no_other(
    db: Database,
    settings: Settings,
    tmp_path: Path,
    submit: Submit,
    retention: Callable[..., Retention],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [submit() for _ in range(3)]
    for job_id in ids:
        end(db, job_id, OLD)
    add_dataset(db, settings, tmp_path, "ds-old", OLD)
    delete_job = ArtifactStore.delete_job

    def fail_for_the_second(store: ArtifactStore, job_id: str) -> None:
        if job_id == ids[1]:
            raise RuntimeError("the store says no")  # each kind of store raises its own errors
        delete_job(store, job_id)

    monkeypatch.setattr(ArtifactStore, "delete_job", fail_for_the_second)
    retention(keep_jobs_days=5, keep_datasets_days=5).sweep()
    assert left(db) == ({ids[1]}, set())


@pytest.mark.parametrize(("version", "kept"), [({"from_the_future": ["ds-old"]}, {"ds-old"}), ({"other": 1}, set())])
def test_a_job_of_another_version_keeps_the_datasets_that_its_spec_names(
    db: Database,
    settings: Settings,
    tmp_path: Path,
    submit: Submit,
    retention: Callable[..., Retention],
    version: dict[str, Any],
    kept: set[str],
) -> None:
    add_dataset(db, settings, tmp_path, "ds-old", OLD)
    job_id = submit()
    with db.write() as session:
        job = jobs.require_job(session, job_id)
        job.dataset, job.spec = "family of 3 datasets", version
    retention(keep_datasets_days=5).sweep()
    assert left(db)[1] == kept


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_thread_outlives_an_error(
    db: Database, submit: Submit, retention: Callable[..., Retention], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.service.test_takeover import wait_for

    job_id, calls = submit(), []
    end(db, job_id, OLD)

    def fail_once() -> datetime:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("an error of the service")
        return utc_now()

    monkeypatch.setattr(module, "utc_now", fail_once)
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    with retention(keep_jobs_days=5):
        wait_for(lambda: not left(db)[0])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_thread_sweeps_while_the_worker_runs(
    db: Database, submit: Submit, retention: Callable[..., Retention]
) -> None:
    from tests.service.test_takeover import wait_for

    job_id = submit()
    end(db, job_id, OLD)
    with retention():
        pass
    assert left(db)[0] == {job_id}
    with retention(keep_jobs_days=5):
        wait_for(lambda: not left(db)[0])
