# Uploads of the same file, failing writes and deletions in every order: a stored dataset always has its files.
from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from service.artifacts import ArtifactStore
from service.backup.check import compare
from service.data.facts import DatasetFacts
from service.data.upload import FileFormat, ReadFile, Upload, read_file
from service.db.models import DatasetRow
from service.db.session import Database
from service.ledger import datasets as ledger
from service.settings import Settings
from service.submission.datasets import store_upload

CSV = b"a,y\n" + b"".join(b"%d,%d\n" % (i * 7 % 13, i % 2) for i in range(40))


@pytest.fixture
def store(settings: Settings) -> ArtifactStore:
    return ArtifactStore(settings.artifacts_url)


def upload(db: Database, store: ArtifactStore, read: ReadFile = read_file) -> tuple[DatasetRow, bool]:
    with Upload(FileFormat.CSV, 1 << 20) as arrived:
        arrived.write(CSV)
        return store_upload(db, store, arrived, "a.csv", read, None)


def meanwhile(act: Callable[[], object]) -> ReadFile:
    """Return a reader during which something else happens."""

    def read(*arguments: Any) -> DatasetFacts:
        act()
        return read_file(*arguments)

    return read


def assert_stored(db: Database, store: ArtifactStore) -> None:
    """Check that there is one dataset, with its files and no others."""
    with db.read() as session:
        (row,) = ledger.page(session, 10, None)
    assert files(store) == ["facts.json", "table.parquet"]
    assert store.dataset_bytes(row.id) == row.stored_bytes


def assert_new(db: Database, store: ArtifactStore, act: Callable[[], object]) -> None:
    """Check that an upload during which something else happens stores a new dataset."""
    assert upload(db, store, meanwhile(act))[1]
    assert_stored(db, store)


def files(store: ArtifactStore) -> list[str]:
    """Return the names of all files in the folder of datasets, finished or not."""
    top = Path(store.dataset_url("").removeprefix("file://"))
    return sorted(path.name for path in top.rglob("*") if path.is_file())


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: object, method: str) -> None:
    """Let the second call of a method fail for want of room, and leave the others alone."""
    call, calls = getattr(owner, method), []

    def full(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return call(*arguments, **options)

    monkeypatch.setattr(owner, method, full)


def test_a_late_upload_whose_write_fails_leaves_the_files_of_the_first(
    db: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first() -> None:
        assert upload(db, store)[1]
        fail_once(monkeypatch, store._fs, "put_file")

    with pytest.raises(OSError, match="No space left"):
        upload(db, store, meanwhile(first))
    assert_stored(db, store)


@pytest.mark.parametrize("method", ["put_file", "mv"])
def test_an_upload_whose_write_fails_leaves_nothing(
    db: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    fail_once(monkeypatch, store._fs, method)
    with pytest.raises(OSError, match="No space left"):
        upload(db, store)
    with db.read() as session:
        assert ledger.page(session, 10, None) == []
    assert files(store) == []


def test_an_upload_during_which_the_dataset_comes_and_goes_stores_it(db: Database, store: ArtifactStore) -> None:
    def come_and_go() -> None:
        row, _ = upload(db, store)
        ledger.delete(db, row.id, store.taken_dataset)

    assert_new(db, store, come_and_go)


def test_a_dataset_that_is_deleted_between_files_and_row_is_stored(
    db: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ledger.add

    def add_late(*arguments: Any) -> tuple[DatasetRow, bool]:
        ledger.delete(db, arguments[1].id, store.taken_dataset)
        return add(*arguments)

    def first() -> None:
        upload(db, store)
        monkeypatch.setattr(ledger, "add", add_late)

    assert_new(db, store, first)


def test_a_row_is_not_seen_before_its_files_are_in_their_place(
    db: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, seen = store._fs.mv, []

    def look(*arguments: Any, **options: Any) -> None:
        dataset_id = Path(arguments[1]).parent.name
        seen.append(ledger.find(db, dataset_id))
        move(*arguments, **options)

    monkeypatch.setattr(store._fs, "mv", look)
    row, _ = upload(db, store)
    assert seen == [None, None]
    ledger.delete(db, row.id, store.taken_dataset)
    assert files(store) == []


@pytest.mark.parametrize("lost", [["facts.json", "table.parquet"], ["table.parquet"], ["facts.json"]])
def test_the_same_file_again_restores_what_is_missing(db: Database, store: ArtifactStore, lost: list[str]) -> None:
    row, _ = upload(db, store)
    folder = Path(store.dataset_url(row.id).removeprefix("file://"))
    for name in lost:
        (folder / name).unlink()
    again, is_new = upload(db, store)
    assert (again.id, again.seq, is_new) == (row.id, row.seq, False)
    assert_stored(db, store)


def test_the_same_file_again_is_not_read_while_its_files_are_there(db: Database, store: ArtifactStore) -> None:
    row, _ = upload(db, store)
    with db.write() as session:  # as versions before the limits on bytes have left it
        session.get_one(DatasetRow, row.seq).stored_bytes = row.size_bytes
    for _ in range(2):
        upload(db, store, meanwhile(lambda: pytest.fail("it was read")))


@pytest.mark.parametrize("moment", ["before_cursor_execute", "commit"])
def test_a_deletion_that_the_database_refuses_leaves_the_files(db: Database, store: ArtifactStore, moment: str) -> None:
    row, _ = upload(db, store)

    def refuse(*arguments: Any) -> None:
        if moment == "commit" or arguments[2].startswith("DELETE"):
            raise OSError(errno.ENOSPC, "No space left on device")

    event.listen(db.engine, moment, refuse)
    try:
        with pytest.raises(OSError, match="No space left"):
            ledger.delete(db, row.id, store.taken_dataset)
    finally:
        event.remove(db.engine, moment, refuse)
    assert_stored(db, store)


def test_the_files_of_a_deleted_dataset_are_deleted_after_the_commit(
    db: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, _ = upload(db, store)
    delete, found = store._fs.rm_file, list[DatasetRow | None]()

    def look(*arguments: Any) -> None:
        if not found:  # the same file comes again while its old ones are deleted: the database is not locked
            found.append(ledger.find(db, row.id))
            assert upload(db, store)[1]
        delete(*arguments)

    monkeypatch.setattr(store._fs, "rm_file", look)
    ledger.delete(db, row.id, store.taken_dataset)
    assert found == [None]
    assert_stored(db, store)


def test_another_process_that_starts_meanwhile_leaves_the_files_of_an_old_dataset(
    db: Database, store: ArtifactStore
) -> None:
    row, _ = upload(db, store)
    for file in Path(store.url_of("datasets").removeprefix("file://")).rglob("*.*"):
        os.utime(file, (0, 0))

    def refuse(_: Any) -> None:
        store.sweep()
        raise OSError(errno.ENOSPC, "No space left on device")

    event.listen(db.engine, "commit", refuse)
    try:
        with pytest.raises(OSError, match="No space left"):
            ledger.delete(db, row.id, store.taken_dataset)
    finally:
        event.remove(db.engine, "commit", refuse)
    assert_stored(db, store)


def test_what_a_killed_deletion_leaves_is_swept(
    db: Database, settings: Settings, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, _ = upload(db, store)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store._fs, "rm_file", die)
    with pytest.raises(KeyboardInterrupt):
        ledger.delete(db, row.id, store.taken_dataset)
    assert len(files(store)) == 2
    assert compare(settings).wrong == []
    monkeypatch.setattr("service.artifacts.KEPT_S", -1.0)
    store.sweep()
    assert files(store) == []
