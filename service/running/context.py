"""What the steps of a job share: the job itself, the worker's tools, and the signal to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import optuna

from service.artifacts import ArtifactStore
from service.data.prepared import PreparedData
from service.engines.base import Engine
from service.ledger.runs import RunLog
from service.planning.plan import JobPlan
from service.user_code.probe import UserCode


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job that a worker runs.

    Attributes:
        record: Writes to the ledger.
        plan: What the job does.
        data: Its prepared data: a split, or a family of tasks.
        splits: Other splits of the same rows, by the seeds that draw them.
        artifacts: Keeps its files.
        halted: Tells whether the worker wants everything stopped.
    """

    record: RunLog
    plan: JobPlan
    data: PreparedData
    artifacts: ArtifactStore
    halted: Callable[[], bool]
    splits: Mapping[int, PreparedData] = field(default_factory=dict)

    def data_of(self, seed: int) -> PreparedData:
        """Return the data that a run with ``seed`` trains on."""
        return self.splits.get(self.plan.split_seed(seed), self.data)


class StopSignal(Protocol):
    """Says whether work on the job may go on."""

    def halted(self) -> bool:
        """Tell whether work on the job must stop now."""

    def check(self) -> None:
        """Raise if work on the job must stop now."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker runs jobs with."""

    engines: Mapping[str, Engine]
    storage: optuna.storages.BaseStorage
    artifacts: ArtifactStore
    user_code: UserCode
