# A backup that is made while a service runs is complete, and a service that is restored from it goes on the same.
from __future__ import annotations

import itertools
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from typer.testing import CliRunner, Result

from service.api.app import create_app
from service.artifacts import DATA_FILE, ArtifactStore, copy_file, file_sha256, write_artifact
from service.backup import check, make
from service.backup.check import compare
from service.backup.tables import tables
from service.cli.app import app
from service.db.models import AuditLine, Event, Job
from service.db.session import Database, create_schema
from service.db.studies import Studies
from service.engines.local import LocalEngine
from service.errors import BackupError
from service.ledger import audit, jobs
from service.settings import Settings
from service.states import JobState
from service.worker import Worker
from tests.conftest import DATABASES, SpecMaker, empty_database
from tests.service import faults
from tests.service.api.conftest import claim_job, succeed
from tests.service.conftest import Submit, get_job, get_trials
from tests.service.test_paused_jobs import outcome, running
from tests.service.test_takeover import wait_for

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the backup is made."""
    return tmp_path / "backups" / "one"


@pytest.fixture(params=DATABASES)
def target(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings of an empty service on either database."""
    with empty_database(request, tmp_path / "restored.db") as url:
        yield settings.model_copy(update={"database_url": url, "artifacts_url": str(tmp_path / "restored")})


@pytest.fixture
def sqlite_target(settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a service whose database is not there yet."""
    changed = {"database_url": f"sqlite:///{tmp_path}/new/restored.db", "artifacts_url": str(tmp_path / "restored")}
    return settings.model_copy(update=changed)


def rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of the tables that are copied."""
    with closing(Database(url)) as database, database.engine.connect() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in tables()
            if table.name != AuditLine.__tablename__  # a backup and a restore add lines
        }


def answers(client: TestClient, paths: list[str]) -> list[Any]:
    return [(path, answer.status_code, answer.content) for path in paths for answer in [client.get(path)]]


@pytest.fixture
def used(settings: Settings, db: Database, spec: SpecMaker, storage: optuna.storages.RDBStorage) -> list[str]:
    """A service with a job that succeeded, one that waits, and a dataset; returns the paths of what it answers."""
    with TestClient(create_app(settings)) as client:
        dataset = client.post("/v1/datasets", content="x,y\n1,2\n3,5\n" * 20, params={"filename": "a.csv"}).json()["id"]
        done = client.post("/v1/jobs", json=spec(name="größer 🚀", tags=["a"])).json()["id"]
        succeed(claim_job(db))
        ArtifactStore(settings.artifacts_url).put(done, DATA_FILE, b"data")
        write_artifact(ArtifactStore(settings.artifacts_url).checkpoint_url(done, "run") + "/step-1", b"checkpoint")
        waiting = client.post("/v1/jobs", json=spec()).json()["id"]
    optuna.create_study(study_name=f"{done}/warpadam", storage=storage).enqueue_trial({"x": 1.0})
    job = f"/v1/jobs/{done}"
    return [
        *("/v1/jobs", job, f"/v1/jobs/{waiting}", f"{job}/trials", f"{job}/trials/0", f"{job}/recommendation"),
        *("/v1/datasets", f"/v1/datasets/{dataset}", f"{job}/export?format=json"),
    ]


def test_a_restored_service_answers_the_same_and_takes_more(
    used: list[str], settings: Settings, target: Settings, folder: Path, spec: SpecMaker
) -> None:
    with TestClient(create_app(settings)) as client:
        before = answers(client, used)
        manifest = make.make(settings, folder)
        assert answers(client, used) == before
    assert (manifest["jobs"], manifest["datasets"]) == (2, 1)
    assert not any("checkpoints" in name for name in manifest["files"])
    assert make.damage(folder, make.read_manifest(folder)) == []
    before_restore = identity(target)
    assert make.restore(target, folder) == manifest
    assert rows(target.database_url) == rows(settings.database_url)
    with TestClient(create_app(target)) as client:
        assert answers(client, used) == before
        assert client.get("/readyz").status_code == 200
        added = client.post("/v1/jobs", json=spec())
        assert added.status_code == 202, added.text
        assert client.get("/v1/jobs").json()["items"][0]["id"] == added.json()["id"]
    assert identity(target) == before_restore
    with closing(Database(target.database_url)) as restored, restored.read() as session:
        lines = audit.page(session, 10, None)
    assert {"submit_job", "restore"} <= {line.operation for line in lines}


def identity(settings: Settings) -> object:
    with closing(Database(settings.database_url)) as database, database.engine.connect() as connection:
        return connection.scalar(text("SELECT id FROM database_identity"))


def test_a_backup_while_a_job_runs_ends_as_the_job_does(
    settings: Settings,
    target: Settings,
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAULTS_DIR", str(tmp_path))
    job_id = submit()
    slow = LocalEngine(faults.slow_search)
    with closing(slow), running(Worker(settings, db, storage, {"optuna": slow})):
        wait_for(lambda: len(get_trials(db, job_id)) == 2 and (tmp_path / "point-12").exists())
        make.make(settings, folder)
        assert get_job(db, job_id).state == JobState.RUNNING
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    make.restore(target, folder)
    engine, restored, studies = LocalEngine(), Database(target.database_url), Studies(target.database_url)
    with closing(engine), closing(restored), closing(studies):
        assert get_job(restored, job_id).state == JobState.RUNNING
        assert Worker(target, restored, studies.open(), {"optuna": engine}).run_next(), "it need not wait"
        assert get_job(restored, job_id).state == JobState.SUCCEEDED
        assert without_attempts(outcome(restored, job_id)) == without_attempts(outcome(db, job_id))
    assert compare(target).wrong == []


def without_attempts(found: tuple[Any, ...]) -> list[list[tuple[Any, ...]]]:
    return [[row[:-1] for row in part] for part in found]


@sqlite_only
def test_a_job_that_is_deleted_meanwhile_is_left_out(
    used: list[str], settings: Settings, sqlite_target: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = copy_file
    deleted: list[str] = []

    def copy(url: str, to: Path) -> str:
        if not deleted:
            with TestClient(create_app(settings)) as client:
                deleted.append(used[1])
                assert client.delete(used[1]).status_code == 204
        return real(url, to)

    monkeypatch.setattr(make, "copy_file", copy)
    manifest = make.make(settings, folder)
    assert manifest["jobs"] == 1
    assert not any(name.startswith("artifacts/jobs/") for name in manifest["files"])
    assert make.damage(folder, manifest) == []
    make.restore(sqlite_target, folder)
    assert compare(sqlite_target).wrong == []


@sqlite_only
@pytest.mark.parametrize("times", [1, 3])
def test_a_job_that_goes_on_meanwhile_lets_the_backup_begin_again(
    used: list[str], settings: Settings, db: Database, folder: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    real, calls = make._copy_files, []

    def copy(*given: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            with db.write() as session:
                session.scalars(select(Job).where(Job.state == JobState.SUCCEEDED)).one().looks += 1
        return real(*given)

    monkeypatch.setattr(make, "_copy_files", copy)
    if times < make.ATTEMPTS:
        make.make(settings, folder)
        assert len(calls) == 2
    else:
        with pytest.raises(BackupError, match="extended or tried again"):
            make.make(settings, folder)
        assert list(folder.parent.iterdir()) == []


@sqlite_only
def test_nothing_half_written_stays(
    used: list[str], settings: Settings, sqlite_target: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(make, "copy_file", full)
        with pytest.raises(OSError, match="No space"):
            make.make(settings, folder)
    assert list(folder.parent.iterdir()) == []
    make.make(settings, folder)
    errors = (OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("the store says no"))
    for place, error in itertools.product(("copy_rows", "write_artifact"), errors):

        def fail(*_: Any, error: BaseException = error) -> Any:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(make, place, fail)
            with pytest.raises(type(error)):
                make.restore(sqlite_target, folder)
        assert ArtifactStore(sqlite_target.artifacts_url).files() == []
        assert rows(sqlite_target.database_url)["jobs"] == []
    make.restore(sqlite_target, folder)


def changed(folder: Path, how: str) -> str:
    """Damage a backup; return what the error says."""
    file, manifest = next(folder.rglob(DATA_FILE)), folder / make.MANIFEST
    name = str(file.relative_to(folder))
    newer = json.loads(manifest.read_text()) | {"format": 2, "warptune": "9.0"}
    damage: dict[str, tuple[Callable[[], object], str]] = {
        "changed": (lambda: file.write_bytes(b"other"), f"{name} has changed since the backup was made"),
        "removed": (file.unlink, f"{name} is missing"),
        "link": (
            lambda: file.replace(file.with_name("link")).with_name(DATA_FILE).symlink_to("/etc/hostname"),
            f"{name} is missing or cannot be read",
        ),
        "added": (lambda: file.with_name("more").write_text(""), "more is not of the backup"),
        "no manifest": (manifest.unlink, "is not a backup: it has no manifest.json"),
        "not JSON": (lambda: manifest.write_text("{"), "cannot be read as the manifest of a backup"),
        "newer": (lambda: manifest.write_text(json.dumps(newer)), "was made by warptune 9.0, which is newer"),
    }
    act, message = damage[how]
    act()
    return message


@sqlite_only
@pytest.mark.parametrize("how", ["changed", "removed", "link", "added", "no manifest", "not JSON", "newer"])
def test_a_damaged_backup_is_refused_and_named(
    used: list[str], settings: Settings, sqlite_target: Settings, folder: Path, how: str
) -> None:
    make.make(settings, folder)
    expected = changed(folder, how)
    with pytest.raises(BackupError, match=expected):
        make.restore(sqlite_target, folder)
    assert not Path(sqlite_target.artifacts_url).exists()
    assert not Path(sqlite_target.database_url.removeprefix("sqlite:///")).exists()


@sqlite_only
@pytest.mark.parametrize("name", ["what?", "a#b", "50%41 é", "{x}", "a::b", "~ @:;"])
def test_a_folder_may_have_any_name(
    used: list[str], settings: Settings, sqlite_target: Settings, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name / "backup"
    assert make.make(settings, folder)["jobs"] == 2
    assert {file.name for file in folder.iterdir()} == {make.LEDGER, make.MANIFEST, make.FILES}
    make.restore(sqlite_target, folder)
    assert rows(sqlite_target.database_url) == rows(settings.database_url)


@sqlite_only
def test_an_empty_folder_may_be_named_by_a_link(used: list[str], settings: Settings, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder.parent / "link").symlink_to(folder)
    make.make(settings, folder.parent / "link")
    assert {file.name for file in folder.iterdir()} == {make.LEDGER, make.MANIFEST, make.FILES}


@sqlite_only
@pytest.mark.parametrize("name", [".", "", "../empty"])
def test_the_folder_in_which_one_is_is_not_replaced(
    used: list[str], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(BackupError, match="is the current folder: name a new folder in it"):
        make.make(settings, Path(name))


@sqlite_only
def test_a_mount_point_is_refused_before_anything_is_copied(
    used: list[str], settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    with pytest.raises(BackupError, match="is a mount point: name a new folder in it"):
        make.make(settings, folder)


@sqlite_only
@pytest.mark.parametrize("how", ["empty", "other rows"])
def test_a_backup_without_the_rows_that_it_should_have_is_refused(
    used: list[str], settings: Settings, sqlite_target: Settings, folder: Path, how: str
) -> None:
    make.make(settings, folder)
    ledger, manifest = folder / make.LEDGER, make.read_manifest(folder)
    if how == "empty":
        ledger.write_bytes(b"")
    else:
        with closing(sqlite3.connect(ledger)) as connection, connection:
            connection.execute("DELETE FROM job_trials")
    manifest["files"][make.LEDGER] = file_sha256(str(ledger))
    (folder / make.MANIFEST).write_text(json.dumps(manifest))
    expected = "ledger.db cannot be read: no such table: jobs" if how == "empty" else "ledger.db has 0 trials, not 5"
    with pytest.raises(BackupError, match=expected):
        make.restore(sqlite_target, folder)
    assert not Path(sqlite_target.database_url.removeprefix("sqlite:///")).exists()
    verified = run(settings, "verify", str(folder))
    assert (verified.exit_code, expected in verified.stdout) == (1, True), verified.output


@sqlite_only
def test_nothing_is_overwritten(used: list[str], settings: Settings, sqlite_target: Settings, folder: Path) -> None:
    make.make(settings, folder)
    with pytest.raises(BackupError, match="not an empty folder: name a new one"):
        make.make(settings, folder)
    with pytest.raises(BackupError, match=r"the database sqlite:.* is not empty: it has jobs; restore into a new"):
        make.restore(settings, folder)
    ArtifactStore(sqlite_target.artifacts_url).put("job-0", "file", b"")
    with pytest.raises(BackupError, match=r"the store .*restored is not empty: it has jobs/job-0/file"):
        make.restore(sqlite_target, folder)


@sqlite_only
@pytest.mark.parametrize(
    ("table", "version"), [("warptune_version", "0099_newer"), ("warptune_version", "0003"), ("alembic_version", "v9")]
)
def test_a_backup_of_a_version_that_is_not_known_is_named_and_leaves_nothing(
    used: list[str], settings: Settings, sqlite_target: Settings, folder: Path, table: str, version: str
) -> None:
    manifest = make.make(settings, folder)
    with closing(sqlite3.connect(folder / make.LEDGER)) as connection, connection:
        connection.execute(f"UPDATE {table} SET version_num = ?", [version])
    manifest["files"][make.LEDGER] = file_sha256(str(folder / make.LEDGER))
    (folder / make.MANIFEST).write_text(json.dumps(manifest | {"warptune": "0.3.0"}))
    done = run(sqlite_target, "restore", str(folder))
    assert done.exit_code == 1
    assert f"error: {folder} was made by warptune 0.3.0, and this one, " in done.stderr
    assert "warptune-data-" not in done.stderr, "no temporary file is named"
    assert not Path(sqlite_target.artifacts_url, "jobs").exists()
    assert not Path(sqlite_target.database_url.removeprefix("sqlite:///")).exists()


@sqlite_only
def test_a_backup_of_an_older_version_is_restored(settings: Settings, sqlite_target: Settings, folder: Path) -> None:
    make.make(settings, folder)
    ledger = folder / make.LEDGER
    with closing(Database(f"sqlite:///{ledger}")) as old, old.engine.begin() as connection:
        connection.execute(text("DROP TABLE totals"))
        connection.execute(text("DROP TABLE audit_log"))
        for column in ("worker_seconds", "request_id", "queued_at", "delete_requested", "needs_module"):
            connection.execute(text(f"ALTER TABLE jobs DROP COLUMN {column}"))
        connection.execute(text("DROP INDEX ix_job_trials_live"))
        connection.execute(text("UPDATE warptune_version SET version_num = '0009_limits'"))
    with closing(Database(f"sqlite:///{ledger}")) as old, old.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    manifest = make.read_manifest(folder)
    manifest["files"][make.LEDGER] = copy_file(str(ledger), folder.parent / "copy")
    (folder / make.MANIFEST).write_text(json.dumps(manifest))
    make.restore(sqlite_target, folder)
    assert set(rows(sqlite_target.database_url)["jobs"]) == set()


@sqlite_only
def test_text_that_only_sqlite_stores_is_restored_into_every_database(
    settings: Settings, target: Settings, submit: Submit, folder: Path
) -> None:
    job_id = submit()
    with closing(sqlite3.connect(settings.database_url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE jobs SET state = 'failed', cause = ?", ["bad magic \x00"])
        connection.execute(
            "INSERT INTO job_events VALUES (9, ?, '2026-01-01', 'failed', '{\"cause\": \"\\udce9\"}')", [job_id]
        )
    make.make(settings, folder)
    make.restore(target, folder)
    with closing(Database(target.database_url)) as restored, restored.read() as session:
        assert jobs.require_job(session, job_id).cause in ("bad magic \x00", "bad magic \\x00")
        assert session.get_one(Event, 9).data == {"cause": "\\udce9"}


@sqlite_only
def test_verify_finds_what_is_missing_changed_and_left_over(
    used: list[str], settings: Settings, db: Database, storage: optuna.storages.RDBStorage
) -> None:
    store, job_id = ArtifactStore(settings.artifacts_url), used[1].split("/")[-1]
    assert compare(settings).wrong == [f"job {job_id}: data.npz is not the file that was stored"]
    with db.write() as session:
        jobs.require_job(session, job_id).data_sha256 = store.sha256(job_id, DATA_FILE)
    assert compare(settings) == check.Found(jobs=2, datasets=1, files=compare(settings).files, wrong=[])
    Path(store.path(job_id, DATA_FILE).removeprefix("file://")).unlink()
    store.put("job-gone", "p-1.safetensors", b"")
    store.delete_dataset(used[7].split("/")[-1])
    optuna.create_study(study_name="job-gone/adamw", storage=storage)
    expected = [
        f"dataset {used[7].split('/')[-1]} has no file",
        f"job {job_id} has no file data.npz",
        "the Optuna study job-gone/adamw belongs to no job",
    ]
    assert compare(settings).wrong == expected, "a young file may be of an upload that has no row yet"
    old = time.time() - 2 * check.SETTLED_S
    os.utime(store.path("job-gone", "p-1.safetensors").removeprefix("file://"), (old, old))
    assert compare(settings).wrong == [*expected[:2], "jobs/job-gone belongs to no job", expected[2]]


def run(settings: Settings, *arguments: str) -> Result:
    environment = {"WARPTUNE_DATABASE_URL": settings.database_url, "WARPTUNE_ARTIFACTS_URL": settings.artifacts_url}
    return CliRunner().invoke(app, arguments, env=environment | {"COLUMNS": "200"})


@sqlite_only
def test_the_commands_say_what_they_did_and_what_is_wrong(
    used: list[str], settings: Settings, sqlite_target: Settings, folder: Path
) -> None:
    done = run(settings, "backup", str(folder))
    assert (done.exit_code, done.stdout) == (0, f"{folder}  2 jobs, 5 trials, 1 dataset, 4 files\n"), done.output
    assert f"next: warptune verify {folder}" in done.stderr
    again = run(settings, "backup", str(folder))
    assert (again.exit_code, again.stdout) == (1, "")
    assert "name a new one" in again.stderr
    assert "nothing is missing" in run(settings, "verify", str(folder)).stdout
    restored = run(sqlite_target, "restore", str(folder))
    assert restored.exit_code == 0, restored.output
    assert "2 jobs, 5 trials, 1 dataset" in restored.stdout
    live = run(sqlite_target, "verify")
    assert (live.exit_code, "is not the file that was stored" in live.stdout) == (1, True)
    assert "1 of these things" in live.stderr
    changed(folder, "removed")
    damaged = run(settings, "verify", str(folder))
    assert (damaged.exit_code, "is missing or cannot be read" in damaged.stdout) == (1, True)
    missing = run(settings, "restore", str(folder.parent / "no"))
    assert (missing.exit_code, "is not a backup" in missing.stderr) == (1, True)


def test_the_schema_of_a_new_database_is_made(settings: Settings, sqlite_target: Settings, folder: Path) -> None:
    make.make(settings, folder)
    make.restore(sqlite_target, folder)
    create_schema(sqlite_target.database_url)
    assert rows(sqlite_target.database_url)["jobs"] == []
