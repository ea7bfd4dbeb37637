# Files of a job: whole or not there, readable by their URL, and gone with the job even when two delete it.
from __future__ import annotations

import errno
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from service.artifacts import ATTEMPTS, ArtifactStore, read_artifact, write_artifact


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


def test_file_is_read_back_by_its_url(store: ArtifactStore) -> None:
    url = store.put("job-0", "data.npz", b"rows")
    assert url == store.path("job-0", "data.npz")
    assert read_artifact(url) == b"rows"


def test_newer_file_replaces_the_older_and_leaves_no_part(store: ArtifactStore, tmp_path: Path) -> None:
    store.put("job-0", "data.npz", b"old")
    assert read_artifact(store.put("job-0", "data.npz", b"new")) == b"new"
    assert [path.name for path in (tmp_path / "artifacts/jobs/job-0").iterdir()] == ["data.npz"]


def test_deletion_takes_the_files_of_one_job(store: ArtifactStore) -> None:
    gone, stays = store.put("job-0", "data.npz", b"rows"), store.put("job-00", "data.npz", b"rows")
    store.delete_job("job-0")
    store.delete_job("job-0")
    assert read_artifact(stays) == b"rows"
    with pytest.raises(FileNotFoundError):
        read_artifact(gone)


def test_deletion_goes_on_when_another_process_was_faster(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        store.put("job-0", f"file-{index}", b"rows")
    delete = store._fs.rm

    def overtaken(path: str, **options: Any) -> None:
        monkeypatch.setattr(store._fs, "rm", delete)
        (tmp_path / "artifacts/jobs/job-0/file-1").unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(store._fs, "rm", overtaken)
    store.delete_job("job-0")
    assert not (tmp_path / "artifacts/jobs/job-0").exists()


@pytest.mark.parametrize(("times", "deleted"), [(1, True), (ATTEMPTS, False)])
def test_deletion_goes_on_when_a_late_slot_writes_meanwhile(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, deleted: bool
) -> None:
    store.put("job-0", "file", b"rows")
    delete, failed = store._fs.rm, list[str]()

    def not_empty(path: str, **options: Any) -> None:
        if len(failed) == times:
            delete(path, **options)
            return
        failed.append(path)
        raise OSError(errno.ENOTEMPTY, "Directory not empty", path)

    monkeypatch.setattr(store._fs, "rm", not_empty)
    with nullcontext() if deleted else pytest.raises(OSError, match="not empty"):
        store.delete_job("job-0")
    assert (tmp_path / "artifacts/jobs/job-0").exists() != deleted


def test_store_that_cannot_be_made_is_an_os_error(store: ArtifactStore, tmp_path: Path) -> None:
    store.check()
    assert (tmp_path / "artifacts").is_dir()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        ArtifactStore(str(tmp_path / "file")).check()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no folder here that nobody can write to")
def test_a_store_that_is_there_and_cannot_be_written_to_is_an_os_error() -> None:
    with pytest.raises(OSError, match="ready"):
        ArtifactStore("/sys/kernel").check()


def test_a_check_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    store.check()
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_checkpoints_go_run_by_run_and_then_all_together(store: ArtifactStore) -> None:
    data = store.put("job-0", "data.npz", b"rows")
    urls = [f"{store.checkpoint_url('job-0', name)}/step-1.ckpt" for name in ("trial-1", "trial-10", "confirm-1")]
    for url in urls:
        write_artifact(url, b"state")
    store.delete_checkpoints("job-0", "trial-1")
    assert [file_exists(url) for url in urls] == [False, True, True]
    store.delete_checkpoints("job-0")
    store.delete_checkpoints("job-0")
    assert [file_exists(url) for url in (*urls, data)] == [False, False, False, True]


def test_checkpoints_that_cannot_be_deleted_cost_a_warning(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: str, **options: Any) -> None:
        raise PermissionError(path)

    write_artifact(f"{store.checkpoint_url('job-0', 'trial-1')}/step-1.ckpt", b"state")
    monkeypatch.setattr(store._fs, "rm", refuse)
    store.delete_checkpoints("job-0", "trial-1")
    assert [record.message for record in caplog.records] == ["checkpoints are left behind"]


def test_a_file_that_cannot_be_put_in_its_place_leaves_no_part(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.put("job-0", "data.npz", b"old")

    def full(*_: object, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._fs, "mv", full)
    with pytest.raises(OSError, match="No space left"):
        store.put("job-0", "data.npz", b"new")
    assert [path.name for path in (tmp_path / "artifacts/jobs/job-0").iterdir()] == ["data.npz"]
    assert read_artifact(store.path("job-0", "data.npz")) == b"old"


def file_exists(url: str) -> bool:
    return Path(url.removeprefix("file://")).exists()
