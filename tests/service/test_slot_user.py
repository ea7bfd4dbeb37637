# Slots that run as another user: what they can do, what they cannot, and that jobs end as ever.
from __future__ import annotations

import os
import pwd
import re
import resource
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from service.accounts import Account
from service.artifacts import ArtifactStore, p_file, read_artifact, weights_file
from service.db.session import Database
from service.engines.base import default_train
from service.engines.local import LocalEngine, SlotRules
from service.settings import Settings
from service.spec.job import JobSpec, ResourcesSpec
from service.states import JobState, TrialState
from service.training.run import CurvePoint, Run
from service.user_code.probe import UserCode
from service.worker import Worker
from tests.conftest import SpecMaker
from tests.service.conftest import get_job, queue_job
from tests.service.engines.contract import SILENCE_S, Recorder

NOBODY = "nobody"

IS_ROOT = os.geteuid() == 0


def closed_folder() -> Path | None:
    """Return the folder on the way to Python that is closed to other users, such as the home of root."""
    way = [Path(sys.base_prefix), *Path(sys.base_prefix).parents]
    return next((folder for folder in reversed(way) if not folder.stat().st_mode & 0o001), None)


as_root = pytest.mark.skipif(
    not IS_ROOT or closed_folder() is not None, reason="needs root, and a Python that other users can run"
)
sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user finds, unlike those of pytest, with one below it that only root does."""
    with tempfile.TemporaryDirectory(prefix="warptune-slot-user-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        secret = folder / "secret"
        secret.write_text("of root")
        secret.chmod(0o600)
        yield folder


@pytest.fixture
def account() -> Account:
    return Account.of(NOBODY)


@pytest.fixture
def shared(settings: Settings, open_folder: Path) -> Settings:
    """Settings of a service whose slots run as another user."""
    return settings.model_copy(update={"slot_user": NOBODY, "artifacts_url": str(open_folder / "artifacts")})


def tell(secret: str, run: Run) -> Any:
    """One point: the user, and whether the process can read a file of root and become root again."""
    can = 0
    for attempt in (lambda: Path(secret).read_text(), lambda: os.setuid(0), lambda: os.kill(os.getppid(), 0)):
        try:
            attempt()
            can += 1
        except OSError:
            pass
    Path(tempfile.gettempdir(), "own").write_text(str(Path.home()))
    yield CurvePoint(1, float(os.getuid() * 100 + len(os.getgroups())), float(can), float(os.nice(0)))
    yield CurvePoint(2, float(resource.getrlimit(resource.RLIMIT_CORE)[0]), 0.0, 0.0)


@pytest.fixture
def engine_of(request: pytest.FixtureRequest) -> Iterator[Callable[..., LocalEngine]]:
    engines: list[LocalEngine] = []

    def make(*arguments: Any) -> LocalEngine:
        engines.append(LocalEngine(*arguments))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


class Teller:
    """A training loop that can be sent to a slot."""

    def __init__(self, secret: Path) -> None:
        self.secret = str(secret)

    def __call__(self, run: Run) -> Any:
        return tell(self.secret, run)


@as_root
@sqlite_only
def test_a_slot_of_another_user_reads_no_file_of_root_and_cannot_go_back(
    shared: Settings, open_folder: Path, account: Account, engine_of: Callable[..., LocalEngine]
) -> None:
    rules = SlotRules.of(shared.model_copy(update={"slot_nice": 3}))
    engine, work = engine_of(Teller(open_folder / "secret"), rules), Recorder(1)
    engine.run(work, ResourcesSpec(), SILENCE_S)
    assert {ended.state for ended in work.ended.values()} == {TrialState.COMPLETE}, work.ended
    (_, first), (_, second) = work.points
    assert first.train_loss // 100 == account.uid
    assert first.val_loss == 0.0, "it read a file of root, became root, or may signal the worker"
    assert first.seconds == 3.0
    assert second.train_loss == 0.0
    (pid,) = engine.slot_pids
    assert set(psutil.Process(pid).uids()) == {account.uid}
    assert rules.home is not None
    assert rules.home.stat().st_uid == account.uid
    assert stat.S_IMODE(rules.home.stat().st_mode) == 0o700
    assert (rules.home / "own").read_text() == str(rules.home)


@as_root
@sqlite_only
def test_without_a_user_slots_are_the_workers(
    open_folder: Path, engine_of: Callable[..., LocalEngine], settings: Settings
) -> None:
    engine, work = engine_of(Teller(open_folder / "secret"), SlotRules.of(settings)), Recorder(1)
    engine.run(work, ResourcesSpec(), SILENCE_S)
    assert work.points[0][1].train_loss // 100 == 0
    assert work.points[0][1].val_loss == 3.0


@as_root
@sqlite_only
def test_a_job_on_slots_of_another_user_ends_with_p_and_weights(
    shared: Settings,
    account: Account,
    db: Database,
    storage: optuna.storages.RDBStorage,
    spec: SpecMaker,
    engine_of: Callable[..., LocalEngine],
) -> None:
    artifacts = ArtifactStore(shared.artifacts_url)
    job_id = queue_job(db, JobSpec.model_validate(spec(resources={"slots": 2, "checkpoint_every_s": 0.01})))
    worker = Worker(shared, db, storage, {"optuna": engine_of(default_train, SlotRules.of(shared))})
    assert worker.run_next()
    job = get_job(db, job_id)
    assert (job.state, job.cause) == (JobState.SUCCEEDED, None)
    folder = Path(shared.artifacts_url) / "jobs" / job_id
    owners = {path.name: path.stat().st_uid for path in folder.iterdir()}
    assert owners["data.npz"] == 0
    weights = [name for name in owners if name.startswith("weights-")]
    assert weights
    assert {owners[name] for name in weights} == {account.uid}
    assert weights_file(int(weights[0].removeprefix("weights-").partition(".")[0])) == weights[0]
    assert job.stored_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert not (folder / "checkpoints").exists()
    artifacts.delete_job(job_id)
    assert not folder.exists()


@as_root
@sqlite_only
def test_code_of_users_is_tried_as_the_other_user(shared: Settings, spec: SpecMaker) -> None:
    settings = shared.model_copy(update={"allowed_modules": "tests.service.test_slot_user"})
    wanted = JobSpec.model_validate(spec(dataset={"entrypoint": "tests.service.test_slot_user:dataset_of_root_only"}))
    info = UserCode(settings).info_for(wanted, None)
    assert info is not None
    assert info.rows == 40
    assert info.features == pwd.getpwnam(NOBODY).pw_uid % 97


def dataset_of_root_only(seed: int) -> Any:
    """A dataset whose width tells the user that made it."""
    import numpy as np

    x = np.random.default_rng(seed).normal(size=(40, os.getuid() % 97)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64), "classification"


@sqlite_only
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("no-such-user", "names the user no-such-user, whom this machine does not have"),
        ("root", "must be another user"),
    ],
)
def test_a_user_that_cannot_be_one_is_refused(settings: Settings, name: str, wrong: str) -> None:
    with pytest.raises(OSError, match=wrong):
        SlotRules.of(settings.model_copy(update={"slot_user": name}))


@as_root
@sqlite_only
def test_a_folder_that_is_closed_to_the_user_is_named_at_the_start(settings: Settings, open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    changed = settings.model_copy(update={"slot_user": NOBODY, "artifacts_url": str(closed)})
    with pytest.raises(OSError, match=rf"nobody, the user of WARPTUNE_SLOT_USER, cannot read .*{closed}"):
        SlotRules.of(changed)


OPENED = """
mount --bind "$2" "$3"
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir -p "$2"
mount --move "$3" "$2"
shift 3
exec "$@"
"""
"""Shell commands that put an open folder over a closed one, with Python in it, for this process alone; then run one."""


@pytest.mark.skipif(not IS_ROOT or closed_folder() is None, reason="needs root, and a Python that only root can run")
@pytest.mark.timeout(300)
def test_all_of_this_where_other_users_can_run_python(tmp_path: Path) -> None:
    """Run the tests of this file that were skipped, in a mount namespace of their own."""
    (tmp_path / "python").mkdir()
    inside = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "not all_of_this",
    ]
    command = ["unshare", "--mount", "sh", "-ec", OPENED, "sh", str(closed_folder()), sys.base_prefix]
    done = subprocess.run([*command, str(tmp_path / "python"), *inside], capture_output=True, text=True)
    if "Operation not permitted" in done.stderr:
        pytest.skip("this container does not allow mounts")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert "skipped" not in done.stdout
    assert re.search(r"\b[5-9] passed", done.stdout), done.stdout


def test_a_link_or_a_pipe_in_the_store_is_not_read(tmp_path: Path) -> None:
    artifacts, folder = ArtifactStore(str(tmp_path / "store")), tmp_path / "store" / "jobs" / "job-1"
    folder.mkdir(parents=True)
    (tmp_path / "secret").write_text("of root")
    (folder / p_file(1)).symlink_to(tmp_path / "secret")
    os.mkfifo(folder / p_file(2))
    artifacts.put("job-1", p_file(3), b"P")
    for trial in (1, 2):
        assert artifacts.get("job-1", p_file(trial)) is None
        assert artifacts.sha256("job-1", p_file(trial)) is None
        assert artifacts.size_bytes("job-1", p_file(trial)) is None
        with pytest.raises(FileNotFoundError):
            read_artifact(artifacts.p_url("job-1", trial))
    assert (artifacts.get("job-1", p_file(3)), artifacts.size_bytes("job-1", p_file(3))) == (b"P", 1)
