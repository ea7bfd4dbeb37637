# The contract between what has runs to do (Work) and what runs them (Engine). An engine decides only where and when a
# run happens; what is asked, recorded, pruned or retried is the Work's business.
"""The engine contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from service.schemas import ResourcesSpec
from service.training.run import Ended, Progress, Run


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run to do.

    Attributes:
        key: Row id of the trial or confirmation run.
        run: What to train.
    """

    key: int
    run: Run


class Work(Protocol):
    """A source of runs, told of everything that happens to them. Called from one thread."""

    def next(self) -> Assignment | None:
        """Return the next run to start, or None when there is none now and none before a running one ends."""

    def started(self, assignment: Assignment) -> None:
        """A slot has begun (or begun again) with the run."""

    def progress(self, assignment: Assignment, point: Progress) -> bool:
        """A point was reached; return whether the run goes on."""

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        """The run is over."""

    def lost(self, assignment: Assignment, cause: str) -> bool:
        """The run's process died; return whether the run is to be started again."""

    def interrupted(self, assignment: Assignment) -> None:
        """The run was stopped because of :meth:`halted`."""

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
