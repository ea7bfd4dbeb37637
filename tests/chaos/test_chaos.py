"""Something happens to one process at one moment of a job, and an audit of what is there at the end.

Every cell of ``points.cells`` is a test. CHAOS_SEED decides at which call of the moment it happens, so a run can be
repeated, and another seed tries other calls. CHAOS_REPORT names a file that gets a line of JSON for each cell.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from service.db.models import Job, Trial
from service.states import ENDED_JOB, JobState, TrialState
from tests.chaos.audit import TWO_LEASES_S, Outcome, audit, outcome, seconds_to_the_end
from tests.chaos.points import HAPPENED, Cell, Plan, cells, chosen_call
from tests.chaos.service import Postgres, Service

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

SEED: Final = int(os.environ.get("CHAOS_SEED", "0"))

SPEC: Final[dict[str, Any]] = {
    "name": "chaos",
    "dataset": {"name": "wine"},
    "model": {"name": "mlp", "hidden": [8]},
    "search_space": {"preset": "quick"},
    "search": {"sampler": "tpe", "pruner": "none"},
    "budget": {"trials_per_arm": 2, "steps": 20, "batch_size": 32},
    "resources": {"slots": 1, "max_attempts": 2, "checkpoint_every_s": 0.01},
    "confirm": {"seeds": 6, "top_k": 2},
}

ON_RAY: Final = SPEC | {
    "engine": {"name": "ray"},
    "resources": {"max_concurrent": 1, "max_attempts": 2, "checkpoint_every_s": 0.01},
}


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))  # without it, an import warns
    # As root, the server runs as another user, who cannot open pytest's temporary folder. So make one outside it.
    with tempfile.TemporaryDirectory(prefix="warptune-chaos-", ignore_cleanup_errors=True) as folder:
        server = Postgres(folder)
        yield server
        server.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, set[str]]:
    """What the job comes to that nothing happens to, and the names in its zip."""
    with Service(tmp_path_factory.mktemp("undisturbed")) as service:
        job_id = service.run(SPEC)
        exported = service.export(job_id)
    audit(service, job_id)
    return outcome(service, job_id), set(exported)


@pytest.mark.parametrize(
    "cell",
    [pytest.param(cell, marks=[pytest.mark.ray] if cell.engine == "ray" else []) for cell in cells()],
    ids=str,
)
def test_a_job_ends_as_if_nothing_had_happened(
    cell: Cell, undisturbed: tuple[Outcome, set[str]], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        postgres: Postgres | None = None
        url = None
        if cell.database == "postgresql":
            postgres = request.getfixturevalue("postgres")
            url = stack.enter_context(postgres.database())
        data = postgres.folder if postgres else ""
        plan = Plan(str(tmp_path), cell.victim, cell.signal, cell.moment, chosen_call(SEED, cell), data)
        with Service(tmp_path, plan, url, postgres) as service:
            job_id = service.run(ON_RAY if cell.engine == "ray" else SPEC)
            exported = service.export(job_id)
        seconds = seconds_to_the_end(service)
        expected, names = undisturbed
        assert outcome(service, job_id) == expected
        assert set(exported) == names
        audit(service, job_id)
        claims = service.claims()
    assert_only_the_victim_was_started_again(service, plan)
    if cell.victim == "worker" and plan.at.where != "start" and cell.database == "postgresql":
        assert claims > 1, "no other worker took the job"  # on SQLite, a stopped one may hold the lock
    assert seconds is None or seconds < TWO_LEASES_S
    if report := os.environ.get("CHAOS_REPORT"):
        line = {
            "cell": str(cell),
            "seed": SEED,
            "nth": plan.nth,
            "to_end_s": seconds,
            "claims": claims,
            "s": time.monotonic() - began,
        }
        with Path(report).open("a") as lines:
            print(json.dumps(line), file=lines)


def assert_only_the_victim_was_started_again(service: Service, plan: Plan) -> None:
    """Check that the API and the worker outlive what happens to others. A command that starts may give up."""
    if plan.at.where == "start":
        return
    again = {"worker": plan.victim == "worker", "api": plan.victim == "api" and plan.signal == "kill"}
    assert service.started == {role: 1 + again[role] for role in again}


@pytest.mark.parametrize("moment", ["when it gives a paused job back", "when it takes a resumed job"])
def test_a_worker_that_is_killed_during_a_pause_loses_nothing(
    moment: str, undisturbed: tuple[Outcome, set[str]], tmp_path: Path
) -> None:
    nth = 1 if moment == "when it gives a paused job back" else 2  # it takes the job for the first time before that
    with Service(tmp_path, Plan(str(tmp_path), "worker", "kill", moment, nth)) as service:
        service.begin()
        job_id = service.submit(SPEC)
        service.wait_for(lambda session: session.query(Trial).filter_by(state=TrialState.RUNNING).count() > 0)
        with service.client() as client:
            client.pause(job_id)
            service.wait_for(lambda session: session.query(Job).one().state == JobState.PAUSED)
            client.resume(job_id)
        service.wait_for(lambda session: session.query(Job).one().state in ENDED_JOB)
        assert (tmp_path / HAPPENED).exists(), "nothing was killed"
        service.export(job_id)
    expected, _ = undisturbed
    assert outcome(service, job_id) == expected
    audit(service, job_id)


def test_a_worker_that_is_killed_while_it_ends_a_stopped_job_loses_nothing(tmp_path: Path) -> None:
    outcomes = []
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        moment = "when it ends the search of a stopped job"
        plan = Plan(str(folder), "worker", "kill", moment, 1) if name == "killed" else None
        with Service(folder, plan) as service:
            service.begin("api")
            job_id = service.submit(SPEC)
            with service.client() as client:
                client.stop(job_id)  # before a worker has it, so that both jobs are stopped at the same moment
            service.begin()
            service.wait_for(lambda session: session.query(Job).one().state in ENDED_JOB)
        assert (folder / HAPPENED).exists() == (plan is not None)
        audit(service, job_id)
        outcomes.append(outcome(service, job_id))
    assert outcomes[0] == outcomes[1]
    assert [trial[1] for trial in outcomes[0].rows["trials"]] == ["warpadam", "adamw", "adamw_default"]
