"""The Ray actor, which does one run after another, a point at a time.

Ray Tune calls it in a process on any node of the cluster. It keeps nothing between runs and saves nothing through Ray:
service/training writes the checkpoints of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

from ray import tune

from service import logs
from service.engines.base import Pruning, Train, attempt, warm_up
from service.settings import LogSettings
from service.training.run import CurvePoint, Ended, Run
from service.version import differences, versions, without_builds

RUN: Final = "run"
"""The one key of a Tune trial's config; its value is an :class:`ActorRun`."""

POINT: Final = "point"
ENDED: Final = "ended"
"""Keys of a result: a point of the run, how the run ended, or both for the last point."""

OTHERS: Final = "others"
"""Key of a result that has no point: which versions the actor has instead of those of the worker."""

STEP: Final = "step"
RUNGS: Final = "rungs"
SIGNAL: Final = "signal"
"""Keys of a result that Ray's schedulers read. Rungs are steps in units of the first rung."""


@dataclass(frozen=True, slots=True)
class ActorRun:
    """A run for an actor, and how to do it.

    ``versions`` are those of the worker, which the actor must have too, in any build.
    """

    train: Train
    run: Run
    pruning: Pruning | None
    prunable: bool
    facts: Mapping[str, object]
    versions: Mapping[str, str]

    def __str__(self) -> str:
        return self.run.arm  # Ray uses it in names


class RunActor(tune.Trainable):
    """Does the run in its config; each step is one point of the run."""

    def setup(self, config: dict[str, ActorRun]) -> None:
        """Import what runs need, then begin the first. Ray calls it once in a new process."""
        logs.configure(LogSettings())
        warm_up(config[RUN].train)
        self._begin(config[RUN])

    def reset_config(self, new_config: dict[str, ActorRun]) -> bool:
        """Begin another run in the same process. Ray calls it when it reuses an actor."""
        self._begin(new_config[RUN])
        return True

    def _begin(self, work: ActorRun) -> None:
        self._work, self._points = work, list[CurvePoint]()
        self._others = differences(without_builds(versions()), without_builds(work.versions))
        self._events: Iterator[CurvePoint | Ended] = attempt(work.train, work.run)

    def step(self) -> dict[str, object]:
        """Train to the next point and return it. The last point and the end come in one result."""
        with logs.about(**self._work.facts):
            return self._next()

    def _next(self) -> dict[str, object]:
        if self._others:
            return {OTHERS: self._others, "done": True}
        event = next(self._events)
        if isinstance(event, Ended):
            return {ENDED: event, "done": True}
        self._points.append(event)
        result: dict[str, object] = {POINT: event}
        if (pruning := self._work.pruning) is not None:
            # _SparingASHAScheduler knows which runs it must not stop. The others never stop a run at step 0.
            at = event.step if self._work.prunable or pruning.pruner == "asha" else 0
            result |= {STEP: at, RUNGS: at / pruning.first_rung, SIGNAL: pruning.signal(self._points)}
        if event.step < self._work.run.steps:
            return result
        return {**result, ENDED: next(self._events), "done": True}

    def save(self, checkpoint_dir: str | None = None) -> SimpleNamespace:  # type: ignore[override]
        """Save nothing: a run that continues starts from the last checkpoint that it wrote itself.

        Tune asks for a checkpoint before it pauses a trial.
        """
        del checkpoint_dir
        return SimpleNamespace(checkpoint=None)
