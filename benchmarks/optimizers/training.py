# What a task and a curve are, and the one training loop. A task may run an arm in its own way (few-shot learning does);
# all others give a Problem to `train`. Knows no optimizer by name, and nothing of tuning.
"""Tasks, curves and the training loop."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.optim import Optimizer

from benchmarks.optimizers.arms import Arm
from search_spaces import Scalar

POINTS: Final = 40
"""Points of a curve: the validation loss is measured this many times in a run, the last at its end."""


@dataclass(frozen=True, slots=True)
class Learning:
    """What an arm did on other tasks before the run; none of it is part of the curve.

    Attributes:
        tasks: How many.
        steps: On all of them.
        seconds: Time it took.
    """

    tasks: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Validation losses of one run.

    Attributes:
        steps: Steps done at each point.
        losses: Validation loss there; the run ends at the first that is not finite.
        seconds: Training time up to there, without the time spent on validation.
        learning: What was learned before, if anything was.
    """

    steps: Sequence[int]
    losses: Sequence[float]
    seconds: Sequence[float]
    learning: Learning | None = None

    @property
    def final(self) -> float:
        """The last loss; infinite if the run diverged."""
        return self.losses[-1] if math.isfinite(self.losses[-1]) else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return the curve as JSON has it: a loss that is not finite is null."""
        stored: dict[str, Any] = {
            "steps": list(self.steps),
            "losses": [loss if math.isfinite(loss) else None for loss in self.losses],
            "seconds": [round(second, 4) for second in self.seconds],
        }
        return stored if self.learning is None else {**stored, "learning": asdict(self.learning)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Curve:
        """Read what :meth:`to_json` wrote."""
        losses = [math.inf if loss is None else loss for loss in stored["losses"]]
        learning = Learning(**stored["learning"]) if "learning" in stored else None
        return cls(stored["steps"], losses, stored["seconds"], learning)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Something to train, the same for every arm.

    Attributes:
        name: Unique name, fit for a file name.
        version: Changes with the definition; results of another version are not reused.
        steps: Optimizer steps of a run.
        seeds_per_trial: Runs that a tuning trial is averaged over, for every arm alike.
        cost: Rough seconds of a trial; long ones are started first.
    """

    name: str
    version: str
    steps: int
    seeds_per_trial: int = 1
    cost: float = 1.0

    @property
    def definition(self) -> str:
        """What must be equal for an old result to be valid."""
        return f"{self.name} {self.version} {self.steps} {self.seeds_per_trial}"

    @abstractmethod
    def run(self, arm: Arm, values: Mapping[str, Scalar], seed: int) -> Curve:
        """Train once with the optimizer of ``arm`` at ``values``; ``seed`` decides initial weights and batches."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A freshly initialised model, and what is asked of it.

    Attributes:
        model: Its last matrix is the output layer; embeddings are ``nn.Embedding``.
        batch_loss: Draws the next batch and returns its loss.
        validation_loss: Returns the loss on the validation part, always the same one.
    """

    model: nn.Module
    batch_loss: Callable[[], Tensor]
    validation_loss: Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class GradientTask(Task):
    """A task that is trained by gradient steps on batches.

    Attributes:
        problem: Makes the problem of a seed. Global random numbers are seeded before.
        warm_up: Steps of linear warm-up.
    """

    problem: Callable[[int], Problem]
    warm_up: int = 0

    def run(self, arm: Arm, values: Mapping[str, Scalar], seed: int) -> Curve:
        """Train with the arm's schedule: warm-up and linear decay to 0, or a constant lr."""
        torch.manual_seed(seed)
        problem = self.problem(seed)
        optimizers = arm.optimizers(problem.model, values, self.steps, self.warm_up)
        return train(problem, optimizers, self.steps, lambda step: arm.lr_factor(step, self.steps, self.warm_up))


def train(problem: Problem, optimizers: Sequence[Optimizer], steps: int, lr_factor: Callable[[int], float]) -> Curve:
    """Make ``steps`` steps, the lr of each group times ``lr_factor`` of the steps done; stop when the loss diverges."""
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor) for optimizer in optimizers]
    done, seconds = 0, 0.0
    points: list[tuple[int, float, float]] = []
    for point in report_steps(steps):
        started = time.perf_counter()
        try:
            for _ in range(point - done):
                _step(problem, optimizers)
                for schedule in schedules:
                    schedule.step()
        except LinAlgError:  # a factorisation of what is not finite any more
            points.append((point, math.inf, seconds + time.perf_counter() - started))
            break
        seconds += time.perf_counter() - started
        done = point
        points.append((point, _validate(problem, optimizers), seconds))
        if not math.isfinite(points[-1][1]):
            break
    at, losses, times = zip(*points, strict=True)
    return Curve(at, losses, times)


def report_steps(steps: int) -> list[int]:
    """Return the steps at which a curve has its points, the last one included."""
    count = min(POINTS, steps)
    return [math.ceil(steps * i / count) for i in range(1, count + 1)]


def _step(problem: Problem, optimizers: Sequence[Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    problem.batch_loss().backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()


def _validate(problem: Problem, optimizers: Sequence[Optimizer]) -> float:
    """Return the validation loss, at the averaged weights of an optimizer that has some."""
    for optimizer in optimizers:
        getattr(optimizer, "eval", _nothing)()
    problem.model.eval()
    with torch.no_grad():
        loss = problem.validation_loss()
    problem.model.train()
    for optimizer in optimizers:
        getattr(optimizer, "train", _nothing)()
    return loss


def _nothing() -> None:
    pass
