"""The contract between a Work, which has runs to do, and an Engine, which does them.

The Work decides which runs to do, which to stop early and which to retry, and records what happens. The Engine only
decides where and when a run happens. tests/service/engines/contract.py holds every engine to this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from service.spec.job import ResourcesSpec
from service.training.run import CurvePoint, Ended, Run


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run to do.

    Attributes:
        key: Row id of the trial or confirmation run.
        run: What to train.
        retries: How often it may be started again when its process dies. :meth:`Work.lost` must agree with it.
        prunable: Whether an engine with :attr:`Work.pruning` may stop it early.
    """

    key: int
    run: Run
    retries: int = 0
    prunable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """How an engine decides by itself which runs to stop early.

    Attributes:
        pruner: The rule.
        steps: Steps of a complete run.
        first_rung: Step before which no run is stopped.
        reduction: At a rung, one run in this many continues (asha, hyperband).
        startup_runs: Runs that must have ended before one is stopped (median).
        signal: The number that runs are compared by at a point; lower is better. It is called in another process.
    """

    pruner: Literal["asha", "hyperband", "median"]
    steps: int
    first_rung: int
    reduction: int
    startup_runs: int
    signal: Callable[[CurvePoint], float]


class Work(Protocol):
    """A source of runs that is told everything that happens to them.

    An engine calls it only from the thread that called :meth:`Engine.run`. Each run from :meth:`next` ends with
    :meth:`finished` or :meth:`interrupted`, unless :meth:`Engine.run` raises.
    """

    @property
    def pruning(self) -> Pruning | None:
        """How the engine stops runs early by itself. If None, only :meth:`progress` stops them."""

    def next(self) -> Assignment | None:
        """Return the next run to start. None: there is none now, and there will be none before a running one ends."""

    def started(self, assignment: Assignment) -> None:
        """An attempt at the run has started."""

    def progress(self, assignment: Assignment, point: CurvePoint) -> bool:
        """The run has reached a point. Return whether it should continue."""

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        """The run has ended."""

    def lost(self, assignment: Assignment, cause: str) -> bool:
        """The process of the run has died or was killed because it hung. Return whether to start the run again."""

    def interrupted(self, assignment: Assignment) -> None:
        """The run was stopped, or not started again, because of :meth:`halted`."""

    def halted(self) -> bool:
        """Return whether everything must stop now. The engine asks several times a second."""


class Engine(Protocol):
    """Does the runs of a Work."""

    def run(self, work: Work, resources: ResourcesSpec, silence_s: float) -> None:
        """Do the runs of ``work`` until it has no more or is halted.

        An exception from ``work`` comes out of this method, and no process stays busy with its runs.

        Args:
            work: Source of the runs.
            resources: What the runs may use.
            silence_s: Seconds without a new point after which a run counts as hung: its process is killed, and the
                run is lost.

        Raises:
            JobFailedError: The resources are not available here and never will be.
        """

    def close(self) -> None:
        """End every process of this engine."""


def runs_per_gpu(amount: float) -> int:
    """Return how many runs fit on one GPU when each takes ``amount`` of it (above 0, at most 1)."""
    return int(1 / amount + 1e-9)


def silence(seconds: float) -> str:
    """Return the cause of a run that was lost because it hung."""
    return f"it made no progress for {seconds:g} seconds"
