# What runs inside a Ray actor: one attempt at a run after the other, a point at a time. It keeps nothing between runs
# and saves nothing through Ray: a run's checkpoints are its own business (service/training).
"""The Ray actor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ray import tune

from service.engines.attempt import Train, attempt, warm_up
from service.engines.base import Pruning
from service.training.run import Ended, Progress, Run

TASK: Final = "task"
"""Key of a Tune trial's config with its :class:`Task`."""

POINT: Final = "point"
ENDED: Final = "ended"
"""Keys of a result with what the run said: a point, how it ended, or both at once for the last point."""

STEP: Final = "step"
RUNGS: Final = "rungs"
SIGNAL: Final = "signal"
"""Keys of a result with the numbers that Ray's schedulers read; rungs are steps in units of the first rung."""


@dataclass(frozen=True, slots=True)
class Task:
    """What an actor gets to do."""

    train: Train
    run: Run
    pruning: Pruning | None
    prunable: bool

    def __str__(self) -> str:
        return self.run.arm  # Ray writes it into names


@dataclass(frozen=True, slots=True)
class NothingSaved:
    """The answer to Tune's wish for a checkpoint, which it has before it pauses a trial."""

    checkpoint: None = None


class RunActor(tune.Trainable):
    """Does the run of its config; each step is one point of it."""

    def setup(self, config: dict[str, Any]) -> None:
        """Load what the runs need, then begin with the first."""
        warm_up(config[TASK].train)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with another run in the same process."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._task: Task = config[TASK]
        self._events: Iterator[Progress | Ended] = attempt(self._task.train, self._task.run)

    def step(self) -> dict[str, Any]:
        """Go on to the next point; the last one comes with the end, which saves a message."""
        event = next(self._events)
        if isinstance(event, Ended):
            return {ENDED: event, "done": True}
        result: dict[str, Any] = {POINT: event}
        if (pruning := self._task.pruning) is not None:
            # asha is told whom to spare; the others stop nothing that has not begun
            at = event.step if self._task.prunable or pruning.pruner == "asha" else 0
            result |= {STEP: at, RUNGS: at / pruning.first_rung, SIGNAL: pruning.signal(event)}
        if event.step < self._task.run.steps:
            return result
        return {**result, ENDED: next(self._events), "done": True}

    def save(self, checkpoint_dir: str | None = None) -> Any:
        """Save nothing: a run that goes on begins with the last checkpoint that it made itself."""
        del checkpoint_dir
        return NothingSaved()
