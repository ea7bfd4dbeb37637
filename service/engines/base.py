# The contract between what has runs to do (Work) and what runs them (Engine). An engine decides only where and when a
# run happens; what is asked, recorded, pruned or retried is the Work's business.
"""The engine contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from service.spec.job import ResourcesSpec
from service.training.run import Ended, Progress, Run


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run to do.

    Attributes:
        key: Row id of the trial or confirmation run.
        run: What to train.
        retries: Times that it may be started again when its process dies; :meth:`Work.lost` agrees.
        prunable: Whether an engine that stops runs early by itself may stop this one.
    """

    key: int
    run: Run
    retries: int = 0
    prunable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """Which runs are stopped early, for an engine that decides that itself.

    Attributes:
        pruner: Who decides.
        steps: Steps of a whole run.
        first_rung: Step before which no run is stopped.
        reduction: Of the runs at a rung, one in this many goes on (asha, hyperband).
        startup_runs: Runs before which none is stopped (median).
        signal: What runs are compared by at a point, lower is better; another process gets it.
    """

    pruner: Literal["asha", "hyperband", "median"]
    steps: int
    first_rung: int
    reduction: int
    startup_runs: int
    signal: Callable[[Progress], float]


class Work(Protocol):
    """A source of runs, told of everything that happens to them. Called from one thread.

    What :meth:`next` returned ends as :meth:`finished` or :meth:`interrupted`, unless the engine's ``run`` raises.
    """

    @property
    def pruning(self) -> Pruning | None:
        """What the engine stops early by itself; None leaves it to :meth:`progress`."""

    def next(self) -> Assignment | None:
        """Return the next run to start, or None when there is none now and none before a running one ends."""

    def started(self, assignment: Assignment) -> None:
        """A slot has begun (or begun again) with the run."""

    def progress(self, assignment: Assignment, point: Progress) -> bool:
        """A point was reached; return whether the run goes on."""

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        """The run is over."""

    def lost(self, assignment: Assignment, cause: str) -> bool:
        """The run's process died; return whether the engine is to start the run again."""

    def interrupted(self, assignment: Assignment) -> None:
        """The run was stopped, or did not begin (again), because of :meth:`halted`."""

    def halted(self) -> bool:
        """Tell whether everything must stop now; asked several times a second."""


class Engine(Protocol):
    """Runs a Work to its end."""

    def run(self, work: Work, resources: ResourcesSpec, silence_s: float) -> None:
        """Run what ``work`` hands out until it has nothing left or is halted.

        Whatever ``work`` raises ends the run and leaves no process busy with it.

        Args:
            work: What to run, and whom to tell.
            resources: What the runs may use.
            silence_s: Seconds after which a run that reached no new point is taken for hung and is lost.

        Raises:
            JobFailedError: The resources can never be had here.
        """

    def close(self) -> None:
        """End every process of this engine."""
