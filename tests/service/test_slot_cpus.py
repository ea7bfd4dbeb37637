# Slots that run on some CPUs only: what they and their children run on, what jobs may ask for, and wrong lists.
from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from pydantic import ValidationError

from service.accounts import Account
from service.cli import doctor
from service.db.session import Database
from service.engines.local import LocalEngine, SlotRules
from service.errors import InvalidSpecError, UnavailableError
from service.planning.limits import Machine
from service.planning.plan import JobPlan, make_plan
from service.processes import usable_cpus
from service.settings import Settings, read_cpus
from service.spec.job import JobSpec, ResourcesSpec
from service.states import JobState, TrialState
from service.submission.estimate import estimate
from service.training.run import CurvePoint, Run
from service.user_code.probe import UserCode
from service.worker import Worker
from tests.conftest import SpecMaker, empty_database
from tests.service.conftest import get_job, queue_job
from tests.service.engines.contract import SILENCE_S, Recorder
from tests.service.test_slot_user import NOBODY, as_root

CPU = max(os.sched_getaffinity(0))
MISSING = max(usable_cpus()) + 1

ASK = "import os; print(*os.sched_getaffinity(0))"

needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")


def cpus_of_threads() -> set[int]:
    """Return the CPUs of all threads of this process, and of a process that it starts."""
    child = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout
    threads = (int(name) for name in os.listdir("/proc/self/task"))
    return {cpu for thread in threads for cpu in os.sched_getaffinity(thread)} | set(map(int, child.split()))


def tell(run: Run) -> Iterator[CurvePoint]:
    """Two points: how many CPUs, and the first of them."""
    cpus = cpus_of_threads()
    yield CurvePoint(1, float(len(cpus)), 0.0, 0.0)
    yield CurvePoint(2, float(min(cpus)), 0.0, 0.0)


def dataset(seed: int) -> Any:
    """User code that refuses to make a dataset, and says where it runs."""
    raise RuntimeError(f"it ran on {sorted(cpus_of_threads())}")


def loop(make_optimizer: Any, seed: int, tells: bool = False) -> Iterator[float]:
    """A small training loop. If it ``tells``, it refuses to train, and says where and as whom it runs."""
    if tells:
        raise RuntimeError(f"user {os.getuid()} ran on {sorted(cpus_of_threads())}")
    model = torch.nn.Linear(2, 1)
    optimizer = make_optimizer(model)
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(torch.ones(3, 2)).square().mean()
        loss.backward()
        optimizer.step()
        yield loss.item()


def plan_of_loop(settings: Settings) -> JobPlan:
    """Return the plan of a job whose loop tells where its steps are timed."""
    body = {"model": {"name": "loop", "entrypoint": f"{__name__}:loop"}}
    info = UserCode(settings).info_for(JobSpec.model_validate(body), None)
    body["model"]["config"] = {"tells": True}  # type: ignore[assignment]
    return make_plan(JobSpec.model_validate(body), info)


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """SQLite is enough: nothing here depends on the database."""
    with empty_database(request, tmp_path / "warptune.db") as url:
        yield url


@pytest.fixture
def bound(settings: Settings) -> Settings:
    """Settings of a service whose slots have one CPU."""
    return settings.model_copy(update={"slot_cpus": str(CPU), "allowed_modules": __name__})


@needs_two
def test_a_slot_and_what_it_starts_run_on_the_cpus_of_slots_and_the_worker_does_not(bound: Settings) -> None:
    before = os.sched_getaffinity(0)
    engine, work = LocalEngine(tell, SlotRules.of(bound)), Recorder(1)
    try:
        engine.run(work, ResourcesSpec(), SILENCE_S)
    finally:
        engine.close()
    assert {ended.state for ended in work.ended.values()} == {TrialState.COMPLETE}, work.ended
    assert [point.train_loss for _, point in work.points] == [1.0, float(CPU)]
    assert os.sched_getaffinity(0) == before


@needs_two
def test_user_code_is_tried_on_the_cpus_of_slots(bound: Settings, spec: SpecMaker) -> None:
    wanted = JobSpec.model_validate(spec(dataset={"entrypoint": f"{__name__}:dataset"}))
    with pytest.raises(InvalidSpecError, match=rf"it ran on \[{CPU}\]"):
        UserCode(bound).info_for(wanted, None)


@needs_two
def test_user_code_is_timed_on_the_cpus_of_slots(bound: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", __name__)
    with pytest.raises(UnavailableError, match=rf"user {os.getuid()} ran on \[{CPU}\]"):
        estimate(plan_of_loop(bound), bound)


@as_root
def test_user_code_is_timed_as_the_user_of_slots(bound: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", __name__)
    shared = bound.model_copy(update={"slot_user": NOBODY})
    with pytest.raises(UnavailableError, match=rf"user {Account.of(NOBODY).uid} ran on"):
        estimate(plan_of_loop(shared), shared)


def test_a_process_can_be_given_cpus_that_its_parent_does_not_use() -> None:
    """As with ``taskset -c 0-1 warptune serve`` and slots on the other CPUs."""
    seen: list[frozenset[int]] = []

    def narrow() -> None:
        os.sched_setaffinity(0, {CPU})
        seen.append(usable_cpus())

    thread = threading.Thread(target=narrow)
    thread.start()
    thread.join()
    assert seen == [usable_cpus()]


@pytest.mark.parametrize(
    ("text", "cpus"), [("3", {3}), ("0-2", {0, 1, 2}), ("0, 4-6,9", {0, 4, 5, 6, 9}), ("0-8:4", {0, 4, 8})]
)
def test_a_list_is_read_as_taskset_reads_it(text: str, cpus: set[int]) -> None:
    done = subprocess.run(["taskset", "--cpu-list", text.replace(" ", ""), "true"], capture_output=True, text=True)
    assert "failed to parse" not in done.stderr
    assert read_cpus(text) == cpus


@pytest.mark.parametrize("text", [" ", "2-", "3-1", "a", "0,,1", "0-4:0", "-1", "1.5", "1000000"])
def test_a_list_that_names_no_cpus_is_refused(text: str) -> None:
    with pytest.raises(
        ValidationError, match=r"must list CPUs such as 2-15 or 0,4-7, and '.*' is not a CPU or a range"
    ):
        Settings(slot_cpus=text)


def test_cpus_that_the_machine_does_not_have_are_named_at_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = settings.model_copy(update={"slot_cpus": f"{CPU},{MISSING}-{MISSING + 2}"})
    said = f"WARPTUNE_SLOT_CPUS names the CPUs {MISSING}-{MISSING + 2}, which this process cannot use: it may use"
    for start in (SlotRules.of, UserCode):
        with pytest.raises(OSError, match=said):
            start(wrong)
    monkeypatch.setenv("WARPTUNE_SLOT_CPUS", str(MISSING))
    found = next(check for check in doctor.run_checks() if check.name == "slot CPUs")
    assert (found.state, str(MISSING) in found.found) == ("bad", True)
    monkeypatch.setenv("WARPTUNE_SLOT_CPUS", str(CPU))
    found = next(check for check in doctor.run_checks() if check.name == "slot CPUs")
    assert (found.state, found.found) == ("ok", f"1 for slots: {CPU} (WARPTUNE_SLOT_CPUS)")


def test_a_job_may_ask_for_the_cpus_of_slots_only(
    bound: Settings, db: Database, storage: optuna.storages.RDBStorage, spec: SpecMaker
) -> None:
    assert Machine.of_workers(bound).cpus == 1
    assert Machine.of_workers(bound.model_copy(update={"worker_cpus": 64})).cpus == 1
    assert Machine.of_workers(bound.model_copy(update={"database_url": "postgresql://host/db"})).cpus is None
    job_id = queue_job(db, JobSpec.model_validate(spec(resources={"cpus_per_trial": 2})))
    assert Worker(bound, db, storage, {}).run_next()
    job = get_job(db, job_id)
    assert job.state == JobState.FAILED
    wrong = "resources.cpus_per_trial: must be at most 1, the CPUs that trials may use (got 2)"
    assert job.cause == f"{wrong}. The setting WARPTUNE_SLOT_CPUS decides it."
