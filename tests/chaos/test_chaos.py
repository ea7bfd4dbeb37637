"""Kills one process at one moment of a job, starts it again, and audits what is there at the end.

Every pair of a victim and a moment is a test. CHAOS_SEED decides at which call of the moment it happens, so a run can
be repeated, and another seed tries other calls.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import socket
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from safetensors import safe_open
from sqlalchemy.orm import Session

from service.client.rest import Client
from service.db.models import ConfirmRun, Event, Job, RecommendationRow, Trial
from service.db.session import Database, create_schema
from service.db.studies import Studies
from service.states import ENDED_JOB, JobState, TrialState
from service.temporary import sweep
from tests.chaos.worker_process import API_PID, HAPPENED, MOMENTS

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT: Final = Path(__file__).parents[2]

SEED: Final = int(os.environ.get("CHAOS_SEED", "0"))

VICTIMS: Final = ("worker", "slot", "slot while it starts", "api")

MOST_CALLS: Final = {
    "at the start of a trial": 5,
    "in the middle of a trial": 90,
    "before the end of a trial is stored": 5,
    "before Optuna is told of it": 5,
    "at the verdict": 1,
    "before the result is stored": 1,
}
"""Calls of each moment in a job that nothing happens to: five trials of twenty points."""

WAIT_S: Final = 200.0


def chosen_call(victim: str, moment: str) -> int:
    """Return the call of a moment at which a victim is killed: the same for the same seed."""
    return random.Random(f"{SEED}/{victim}/{moment}").randint(1, MOST_CALLS[moment])


class Service:
    """An API and a worker as processes, which are started again when they end."""

    def __init__(self, folder: Path, chaos: str | None = None) -> None:
        (folder / "tmp").mkdir()
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"
        self.database_url = f"sqlite:///{folder}/warptune.db"
        create_schema(self.database_url)
        foreign = ("WARPTUNE_", "RAY_")
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
            "WARPTUNE_DATABASE_URL": self.database_url,
            "WARPTUNE_ARTIFACTS_URL": str(folder / "artifacts"),
            "WARPTUNE_LEASE_S": "1",
            "WARPTUNE_POLL_S": "0.1",
            "TMPDIR": str(folder / "tmp"),
            "FAULTS_DIR": str(folder),
            "PYTHONPATH": str(ROOT),
            **({"CHAOS": chaos} if chaos else {}),
        }
        self._commands = {
            "api": ["-m", "service", "serve", "--no-worker", "--port", str(self.port)],
            "worker": ["-m", "tests.chaos.worker_process"],
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.started = Counter[str]()

    def start(self, name: str) -> None:
        """Start a process: the ``api`` or the ``worker``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *self._commands[name]], env=self._environment, stdout=log, stderr=log, cwd=self.folder
            )
        self.started[name] += 1

    def keep_running(self) -> None:
        """Start what does not run."""
        for name in self._commands:
            if name not in self._processes or self._processes[name].poll() is not None:
                self.start(name)
        (self.folder / API_PID).write_text(str(self._processes["api"].pid))

    def submit(self, spec: dict[str, Any]) -> str:
        """Submit a job to the API, which runs, and return its id."""
        with Client(self.url, retry_s=WAIT_S) as client:
            return client.submit(spec)["id"]

    def run(self, spec: dict[str, Any]) -> str:
        """Submit a job and keep the service running until the job has ended; return its id."""
        self.keep_running()
        job_id = self.submit(spec)
        self.wait_for(lambda session: session.query(Job).filter_by(id=job_id).one().state in ENDED_JOB)
        return job_id

    def wait_for(self, condition: Callable[[Session], bool]) -> None:
        """Keep the service running until something is in its database."""
        deadline = time.monotonic() + WAIT_S
        with closing(Database(self.database_url)) as db:
            while True:
                with db.read() as session:
                    if condition(session):
                        return
                assert time.monotonic() < deadline, (self.folder / "worker.log").read_text()[-3000:]
                self.keep_running()
                time.sleep(0.05)

    def export(self, job_id: str) -> dict[str, bytes]:
        """Return the files of the exported zip; the API is started again if it has died."""
        self.keep_running()
        with Client(self.url, retry_s=WAIT_S) as client:
            packed = client.export(job_id, "zip")
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def stop(self) -> None:
        """Ask the processes to end, and kill them if they do not."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def left_behind(self) -> list[str]:
        """Return the command lines of processes of this service that are alive."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("FAULTS_DIR") == str(self.folder):
                    found.append(" ".join(process.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


def outcome(service: Service, job_id: str) -> dict[str, Any]:
    """Return what a job came to, but for times, attempts and processes."""
    with closing(Database(service.database_url)) as db, db.read() as session:
        trials = session.query(Trial).filter_by(job_id=job_id).order_by(Trial.number).all()
        runs = session.query(ConfirmRun).filter_by(job_id=job_id).order_by(ConfirmRun.id).all()
        result = session.get_one(RecommendationRow, job_id).data
    return {
        "trials": [(t.number, t.arm, t.params, t.state, t.value, t.last_step) for t in trials],
        "runs": [(r.phase, r.arm, r.trial_number, r.seed, r.state, r.val_loss, r.test_loss) for r in runs],
        **{name: result[name] for name in ("verdict", "arm", "config", "trial", "pairs")},
        "test loss from the learned P": (result["learned_p"] or {}).get("test_loss"),
    }


def job_files(service: Service, job_id: str) -> dict[str, str]:
    """Return the files of a job with their hashes."""
    folder = service.folder / "artifacts/jobs" / job_id
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(content_of(path)).hexdigest() for path in files}


def content_of(path: Path) -> bytes:
    """Return the bytes of a file; of safetensors in one order, because the library writes its metadata in any."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return repr((sorted((file.metadata() or {}).items()), sorted(tensors.items()))).encode()


@pytest.fixture(scope="module")
def spec_of_chaos() -> dict[str, Any]:
    return {
        "name": "chaos",
        "dataset": {"name": "wine"},
        "model": {"name": "mlp", "hidden": [8]},
        "search_space": {"preset": "quick"},
        "search": {"sampler": "tpe", "pruner": "none"},
        "budget": {"trials_per_arm": 2, "steps": 20, "batch_size": 32},
        "resources": {"slots": 1, "max_attempts": 2, "checkpoint_every_s": 0.01},
        "confirm": {"seeds": 6, "top_k": 2},
    }


@pytest.fixture(scope="module")
def undisturbed(
    spec_of_chaos: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Any], dict[str, str], set[str]]]:
    """What the job comes to that nothing happens to: its outcome, its files, and the names in its zip."""
    service = Service(tmp_path_factory.mktemp("undisturbed"))
    try:
        job_id = service.run(spec_of_chaos)
        yield outcome(service, job_id), job_files(service, job_id), set(service.export(job_id))
    finally:
        service.stop()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_job_ends_as_if_nothing_had_been_killed(
    victim: str,
    moment: str,
    spec_of_chaos: dict[str, Any],
    undisturbed: tuple[dict[str, Any], dict[str, str], set[str]],
    tmp_path: Path,
) -> None:
    service = Service(tmp_path, f"{victim}/{moment}/{chosen_call(victim, moment)}")
    try:
        job_id = service.run(spec_of_chaos)
        assert (tmp_path / HAPPENED).exists(), "nothing was killed"
        exported = service.export(job_id)
    finally:
        service.stop()
    assert service.started["worker"] == (2 if victim == "worker" else 1)
    assert service.started["api"] == (2 if victim == "api" else 1)
    expected, files, names = undisturbed
    assert outcome(service, job_id) == expected
    assert job_files(service, job_id) == files
    assert set(exported) == names
    audit(service, job_id)


@pytest.mark.parametrize("moment", ["when it gives a paused job back", "when it takes a resumed job"])
def test_a_worker_that_is_killed_during_a_pause_loses_nothing(
    moment: str,
    spec_of_chaos: dict[str, Any],
    undisturbed: tuple[dict[str, Any], dict[str, str], set[str]],
    tmp_path: Path,
) -> None:
    nth = 1 if moment == "when it gives a paused job back" else 2  # it takes the job for the first time before that
    service = Service(tmp_path, f"worker/{moment}/{nth}")
    try:
        service.keep_running()
        job_id = service.submit(spec_of_chaos)
        service.wait_for(lambda session: session.query(Trial).filter_by(state=TrialState.RUNNING).count() > 0)
        with Client(service.url, retry_s=WAIT_S) as client:
            client.pause(job_id)
            service.wait_for(lambda session: session.query(Job).one().state == JobState.PAUSED)
            client.resume(job_id)
        service.wait_for(lambda session: session.query(Job).one().state in ENDED_JOB)
        assert (tmp_path / HAPPENED).exists(), "nothing was killed"
        service.export(job_id)
    finally:
        service.stop()
    expected, files, _ = undisturbed
    assert outcome(service, job_id) == expected
    assert job_files(service, job_id) == files
    audit(service, job_id)


def test_a_worker_that_is_killed_while_it_ends_a_stopped_job_loses_nothing(
    spec_of_chaos: dict[str, Any], tmp_path: Path
) -> None:
    outcomes = []
    for chaos in (None, "worker/when it ends the search of a stopped job/1"):
        folder = tmp_path / ("killed" if chaos else "undisturbed")
        folder.mkdir()
        service = Service(folder, chaos)
        try:
            service.start("api")
            job_id = service.submit(spec_of_chaos)
            with Client(service.url, retry_s=WAIT_S) as client:
                client.stop(job_id)  # before a worker has it, so that both jobs are stopped at the same moment
            service.wait_for(lambda session: session.query(Job).one().state in ENDED_JOB)
        finally:
            service.stop()
        assert (folder / HAPPENED).exists() == (chaos is not None)
        audit(service, job_id)
        outcomes.append(outcome(service, job_id))
    assert outcomes[0] == outcomes[1]
    assert [trial[1] for trial in outcomes[0]["trials"]] == ["warpadam", "adamw", "adamw_default"]


def audit(service: Service, job_id: str) -> None:
    """Check that the ledger and Optuna's tables agree, and that no file or process is left behind."""
    studies = Studies(service.database_url)
    with closing(studies), closing(Database(service.database_url)) as db, db.read() as session:
        job = session.query(Job).one()
        assert (job.id, job.state, job.cause, job.lease_worker) == (job_id, JobState.SUCCEEDED, None, None)
        trials = session.query(Trial).order_by(Trial.number).all()
        events = Counter((event.kind, event.data.get("trial")) for event in session.query(Event))
        assert [trial.number for trial in trials] == list(range(len(trials)))
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        for trial in trials:
            assert events["trial_finished", trial.number] == 1
        assert (events["submitted", None], events["succeeded", None]) == (1, 1)
        storage = studies.open()
        told = [
            (trial.user_attrs["trial"], trial.state.name, trial.value)
            for study in storage.get_all_studies()
            for trial in storage.get_all_trials(study._study_id)
        ]
        assert sorted(told) == [(trial.number, "COMPLETE", trial.value) for trial in trials]
    left = [path for path in (service.folder / "artifacts").rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix in (".part", ".ckpt") or path.name.startswith(".ready")] == []
    deadline = time.monotonic() + 30.0
    while service.left_behind():
        assert time.monotonic() < deadline, service.left_behind()
        time.sleep(0.1)
    sweep(service.folder / "tmp")
    assert list((service.folder / "tmp").iterdir()) == []
