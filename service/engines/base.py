"""The contract between a Work, which has runs to do, and an Engine, which does them; and what all engines share.

The Work decides which runs to do, which to stop early and which to retry, and records what happens. The Engine only
decides where and when a run happens. tests/service/engines/contract.py holds every engine to this.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from service.spec.job import ResourcesSpec
from service.spec.tasks import Task
from service.states import TrialState
from service.training.run import CurvePoint, DivergedError, Ended, Run

Train = Callable[[Run], Iterator[CurvePoint]]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run to do.

    Attributes:
        key: Row id of the trial or confirmation run.
        run: What to train.
        retries: How often it may be started again when its process dies and has not come further than an earlier
            attempt. :meth:`Work.lost` must agree with it.
        furthest_step: Last step that an earlier attempt had reached when it was lost.
        prunable: Whether an engine with :attr:`Work.pruning` may stop it early.
        facts: What log lines about the run say, such as its job and trial.
    """

    key: int
    run: Run
    retries: int = 0
    furthest_step: int = 0
    prunable: bool = True
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """How an engine decides by itself which runs to stop early.

    Attributes:
        pruner: The rule.
        steps: Steps of a complete run.
        first_rung: Step before which no run is stopped.
        reduction: At a rung, one run in this many continues (asha, hyperband).
        startup_runs: Runs that must have ended before one is stopped (median).
        signal: The number that runs are compared by, from their points so far; lower is better. It is called in
            another process.
    """

    pruner: Literal["asha", "hyperband", "median"]
    steps: int
    first_rung: int
    reduction: int
    startup_runs: int
    signal: Callable[[Sequence[CurvePoint]], float]


class Work(Protocol):
    """A source of runs that is told everything that happens to them.

    An engine calls it only from the thread that called :meth:`Engine.run`. Each run from :meth:`next` ends with
    :meth:`finished` or :meth:`interrupted`, unless :meth:`Engine.run` raises.
    """

    @property
    def pruning(self) -> Pruning | None:
        """How the engine stops runs early by itself. If None, only :meth:`progress` stops them."""

    def next(self) -> Assignment | None:
        """Return the next run to start. None: there is none now, and there will be none before a running one ends.

        The run may wait for a process before it is :meth:`started`.
        """

    def started(self, assignment: Assignment) -> None:
        """An attempt at the run has started."""

    def progress(self, assignment: Assignment, point: CurvePoint) -> bool:
        """The run has reached a point. Return whether it should continue."""

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        """The run has ended."""

    def lost(self, assignment: Assignment, cause: str) -> bool:
        """The process of the run has died or was killed because it hung. Return whether to start the run again."""

    def delayed(self, cause: str, pause_s: float) -> None:
        """A process could not start, and the engine starts another one after ``pause_s`` seconds."""

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

    def end_idle(self) -> None:
        """End processes that had nothing to do for a while. Called between jobs, several times a second."""

    def close(self) -> None:
        """End every process of this engine."""


def runs_per_gpu(amount: float) -> int:
    """Return how many runs fit on one GPU when each takes ``amount`` of it (above 0, at most 1)."""
    return int(1 / amount + 1e-9)


def silence(seconds: float) -> str:
    """Return the cause of a run that was lost because it hung."""
    return f"it made no progress for {seconds:g} seconds"


def default_train(run: Run) -> Iterator[CurvePoint]:
    """Train with the loop that a run needs, loaded on first use."""
    if run.family is not None:
        from service.training.family_loop import train_family

        return train_family(run)
    if run.task == Task.LOOP:
        from service.training.own_loop import train_own_loop

        return train_own_loop(run)
    from service.training.loop import train

    return train(run)


def warm_up(train: Train) -> None:
    """Import what ``train`` needs, so that the seconds of the first run do not include it."""
    if train is default_train:
        import service.training.loop  # noqa: F401


def attempt(train: Train, run: Run) -> Iterator[CurvePoint | Ended]:
    """Yield the points of ``run`` and then how it ended. Nothing that ``train`` raises comes out.

    Called in a slot process and in a Ray actor, which may stop iterating at any point.
    """
    last: CurvePoint | None = None
    try:
        for point in train(run):
            last = point
            yield point
    except DivergedError as error:
        yield ended_at(last, TrialState.DIVERGED, str(error))
    except Exception as error:  # noqa: BLE001 - recorded as the cause of the run's failure
        last_frames = "".join(traceback.format_list(_frames(error.__cause__ or error)[-3:]))
        yield ended_at(last, TrialState.FAILED, f"{type(error).__name__}: {error}\n{last_frames}".strip())
    else:
        yield ended_at(last, TrialState.COMPLETE)


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of a traceback, with files named as modules are found, without folders of this machine."""
    found = traceback.extract_tb(error.__traceback__)
    return [traceback.FrameSummary(_module_file(at.filename), at.lineno, at.name, line=at.line) for at in found]


def _module_file(name: str) -> str:
    file, folders = Path(name), [Path(entry).absolute() for entry in sys.path]
    inside = [str(file.relative_to(folder)) for folder in folders if file.is_relative_to(folder)]
    return min(inside, key=len, default=file.name)


def ended_at(last: CurvePoint | None, state: TrialState, cause: str | None = None) -> Ended:
    """Return the end of a run whose last point was ``last``."""
    if last is None:
        return Ended(state, cause=cause)
    return Ended(state, last.val_loss, last.test_loss, last.seconds, cause, last.test_score)
