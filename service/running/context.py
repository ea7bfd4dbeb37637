"""What the steps of a job share: the job with its data, the worker's tools, and the signal to stop."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import optuna

from service.accounts import Account
from service.artifacts import ArtifactStore
from service.data.prepared import PreparedData
from service.db.studies import delete_studies
from service.engines.base import Engine
from service.errors import JobFailedError
from service.ledger.runs import RunLog
from service.planning.limits import Machine, over_machine
from service.planning.plan import JobPlan
from service.settings import Settings
from service.user_code.probe import UserCode

if TYPE_CHECKING:
    from service.data.prepare import PreparedFile


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job that a worker runs.

    Attributes:
        data: Its prepared data: a split, or a family of tasks.
        splits: Other splits of the same rows, by the seeds that draw them.
        notes: What a person should know about the split or a stop, one sentence each.
        halted: Tells whether the worker wants everything stopped.
        draining: Tells whether the job's user wants no more trials than a verdict needs.
        turn_is_over: Tells whether no further run should begin, because another owner's job goes first.
        run_ended: Is told that a run has ended.
    """

    record: RunLog
    plan: JobPlan
    data: PreparedData
    artifacts: ArtifactStore
    halted: Callable[[], bool]
    splits: Mapping[int, PreparedData] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    draining: Callable[[], bool] = lambda: False
    turn_is_over: Callable[[], bool] = lambda: False
    run_ended: Callable[[], None] = lambda: None

    def data_of(self, seed: int) -> PreparedData:
        """Return the data that a run with ``seed`` trains on."""
        return self.splits.get(self.plan.split_seed(seed), self.data)


class StopSignal(Protocol):
    """Says whether work on the job may go on."""

    def halted(self) -> bool:
        """Tell whether work on the job must stop now."""

    def draining(self) -> bool:
        """Tell whether the job is stopped: it gets no more trials than a verdict needs."""

    def turn_is_over(self) -> bool:
        """Tell whether no further run should begin, because another owner's job goes first."""

    def run_ended(self) -> None:
        """Take note that a run has ended."""

    def check(self) -> None:
        """Raise if work on the job must stop now, where no run goes on."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker runs jobs with.

    ``machine`` is what the slots have; ``account`` is their user, None for the worker's.
    """

    engines: Mapping[str, Engine]
    storage: optuna.storages.BaseStorage
    artifacts: ArtifactStore
    user_code: UserCode
    machine: Machine
    account: Account | None = None

    @classmethod
    def of(cls, settings: Settings, engines: Mapping[str, Engine], storage: optuna.storages.BaseStorage) -> Tools:
        """Return the tools of a worker with these settings."""
        account, machine = Account.of_children(settings.slot_user), Machine.here(settings)
        return cls(engines, storage, ArtifactStore(settings.artifacts_url), UserCode(settings), machine, account)

    def delete_studies(self, names: Iterable[str]) -> None:
        """Delete Optuna's studies with these names. Those that do not exist are skipped."""
        delete_studies(self.storage, names)


def prepare_data(
    record: RunLog, plan: JobPlan, tools: Tools, other_seeds: Iterable[int]
) -> tuple[PreparedData, PreparedFile]:
    """Store the prepared data of the job; return where it is, and what was prepared.

    ``other_seeds`` draw the splits that the job uses after its search.

    Raises:
        JobFailedError: This machine cannot run the job, its trials so far were trained on other data, or the rows
            cannot be split with one of the seeds.
    """
    from service.data.prepare import prepare_job_data  # loads scikit-learn, which an idle worker does not need

    if wrong := [*over_machine(plan, tools.machine)]:  # with PostgreSQL, the API did not know this machine
        raise JobFailedError("; ".join(map(str, wrong)))
    write_dataset = partial(tools.user_code.write_dataset, plan.spec, plan.info)
    with tempfile.TemporaryDirectory(prefix="warptune-data-") as folder:
        file = prepare_job_data(plan.spec, plan.info.task, tools.artifacts, write_dataset, Path(folder), other_seeds)
        before = record.set_data_hash(file.sha256)
        if before not in (None, file.sha256):
            raise JobFailedError(
                f"the data that this worker prepares has SHA-256 {file.sha256}, the trials so far were trained on "
                f"{before}: another version of the service or its libraries prepares it differently; run the versions "
                "that the job began with, or submit it again"
            )
        data = store_prepared(tools.artifacts, record.job_id, file)
        tools.artifacts.give(record.job_id, tools.account)  # slots leave checkpoints, P and weights there
        return data, file


def note_size(record: RunLog, artifacts: ArtifactStore) -> None:
    """Record how many bytes the files of a job have now, for the limit of its project."""
    size_bytes = artifacts.job_bytes(record.job_id)
    if size_bytes is not None:
        record.set_stored_bytes(size_bytes)


def prepare_one_task(job: JobContext) -> PreparedData:
    """Store the split of one meta-test task, so that the P of a family can be tried on it."""
    from service.data.prepare import write_one_task

    with tempfile.TemporaryDirectory(prefix="warptune-task-") as folder:
        return store_prepared(job.artifacts, job.record.job_id, write_one_task(job.data, Path(folder)))


def store_prepared(artifacts: ArtifactStore, job_id: str, file: PreparedFile) -> PreparedData:
    """Put a prepared file, with how its rows became features, into the artifact store; return where it is."""
    if file.preprocessing is not None:
        artifacts.put(job_id, file.preprocessing.name, file.preprocessing)
    return PreparedData(artifacts.put(job_id, file.path.name, file.path), file.sha256)
