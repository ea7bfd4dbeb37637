"""Something happens to one process at one moment of a job, and an audit of what is there at the end.

Every cell of ``points.cells`` is a test. CHAOS_REPEATS is the number of jobs to which it happens, one after the other
on one service; each has a service of its own where it happens while a process starts. CHAOS_SEED decides at which call
of the moment it happens, so a run can be repeated, and another seed tries other calls. CHAOS_REPORT names a file that
gets a line of JSON for each job.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import pytest

from service.db.models import Job, Trial
from service.states import ENDED_JOB, JobState, TrialState
from tests.chaos.audit import TWO_LEASES_S, Outcome, audit, outcome, seconds_to_the_end
from tests.chaos.points import MOMENTS, Cell, Plan, cells, chosen_calls
from tests.chaos.service import Postgres, Service

SEED: Final = int(os.environ.get("CHAOS_SEED", "0"))

REPEATS: Final = int(os.environ.get("CHAOS_REPEATS", "1"))

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(200 + 100 * REPEATS)]

SPEC: Final[dict[str, Any]] = {
    "name": "chaos",
    "dataset": {"name": "wine"},
    "model": {"name": "mlp", "hidden": [8]},
    "search_space": {"preset": "quick"},
    "search": {"sampler": "tpe", "pruner": "none"},
    "budget": {"trials_per_arm": 2, "steps": 10, "batch_size": 32},
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
        service.begin()
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
    postgres: Postgres | None = request.getfixturevalue("postgres") if cell.database == "postgresql" else None
    calls = chosen_calls(SEED, cell, REPEATS)
    at_start = MOMENTS[cell.moment].where == "start"
    for number, group in enumerate([[nth] for nth in calls] if at_start else [calls]):
        folder = tmp_path / str(number)
        folder.mkdir()
        plan = Plan(str(folder), cell.victim, cell.signal, cell.moment, postgres.folder if postgres else "")
        with postgres.database() if postgres else nullcontext() as url:
            strike_at(group, Service(folder, plan, url, postgres), plan, cell, undisturbed)


def strike_at(
    calls: Sequence[int], service: Service, plan: Plan, cell: Cell, undisturbed: tuple[Outcome, set[str]]
) -> None:
    """Let it happen to one job after the other, each at one of the calls, and check what they come to."""
    lines: dict[str, dict[str, Any]] = {}
    with service:
        for turn, nth in enumerate(calls):
            began = time.monotonic()
            plan.begin_turn(turn, nth)
            service.begin()
            job_id = service.run(ON_RAY if cell.engine == "ray" else SPEC)
            assert set(service.export(job_id)) == undisturbed[1]
            happened_at = service.settle(plan)
            lines[job_id] = {
                "cell": str(cell),
                "seed": SEED,
                "turn": turn,
                "nth": nth,
                "to_end_s": seconds_to_the_end(service, job_id, happened_at),
                "claims": service.claims(),
                "s": time.monotonic() - began,
            }
    assert {outcome(service, job_id) == undisturbed[0] for job_id in lines} == {True}
    audit(service, *lines)
    assert_only_the_victim_was_started_again(service, plan, len(lines))
    for line in lines.values():
        if cell.victim == "worker" and plan.at.where != "start" and cell.database == "postgresql":
            assert line["claims"] > 1, "no other worker took the job"  # on SQLite, a stopped one may hold the lock
        assert line["to_end_s"] is None or line["to_end_s"] < TWO_LEASES_S
    if report := os.environ.get("CHAOS_REPORT"):
        with Path(report).open("a") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in lines.values())


def assert_only_the_victim_was_started_again(service: Service, plan: Plan, turns: int) -> None:
    """Check that the API and the worker outlive what happens to others. A command that starts may give up."""
    if plan.at.where == "start":
        return
    killed = turns if plan.signal == "kill" else 0
    another = turns if plan.signal == "kill" else 1  # a worker that was stopped goes on, and can take the next job
    assert service.started == {
        "api": 1 + (killed if plan.victim == "api" else 0),
        "worker": 1 + (another if plan.victim == "worker" else 0),
    }


@pytest.mark.parametrize("moment", ["when it gives a paused job back", "when it takes a resumed job"])
def test_a_worker_that_is_killed_during_a_pause_loses_nothing(
    moment: str, undisturbed: tuple[Outcome, set[str]], tmp_path: Path
) -> None:
    nth = 1 if moment == "when it gives a paused job back" else 2  # it takes the job for the first time before that
    plan = Plan(str(tmp_path), "worker", "kill", moment)
    plan.begin_turn(0, nth)
    with Service(tmp_path, plan) as service:
        service.begin()
        job_id = service.submit(SPEC)
        service.wait_for(lambda session: session.query(Trial).filter_by(state=TrialState.RUNNING).count() > 0)
        with service.client() as client:
            client.pause(job_id)
            service.wait_for(lambda session: session.query(Job).one().state == JobState.PAUSED)
            client.resume(job_id)
        service.wait_for(lambda session: session.query(Job).one().state in ENDED_JOB)
        assert plan.happened(), "nothing was killed"
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
        plan = Plan(str(folder), "worker", "kill", moment) if name == "killed" else None
        if plan:
            plan.begin_turn(0, 1)
        with Service(folder, plan) as service:
            service.begin("api")
            job_id = service.submit(SPEC)
            with service.client() as client:
                client.stop(job_id)  # before a worker has it, so that both jobs are stopped at the same moment
            service.begin()
            service.wait_for(lambda session: session.query(Job).one().state in ENDED_JOB)
        assert plan is None or plan.happened()
        audit(service, job_id)
        outcomes.append(outcome(service, job_id))
    assert outcomes[0] == outcomes[1]
    assert [trial[1] for trial in outcomes[0].rows["trials"]] == ["warpadam", "adamw", "adamw_default"]
