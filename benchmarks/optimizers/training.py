"""What a task and a learning curve are, and the training loop that most tasks share.

A task that only needs gradient steps gives a :class:`Problem` to :func:`train`. Others, such as few-shot learning, run
an arm in their own way. This module knows nothing about particular optimizers or about tuning.
"""

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
"""How often a run measures its validation loss. The last time is at its end."""


@dataclass(frozen=True, slots=True)
class Learning:
    """What an arm spent on other tasks before the run. The curve does not include it.

    Attributes:
        tasks: Number of tasks.
        steps: Steps on all tasks together.
        seconds: Seconds on all tasks together.
    """

    tasks: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Validation losses of one run.

    Attributes:
        steps: Steps done at each point.
        losses: Validation loss at each point. The run ends at the first one that is not finite.
        seconds: Training time up to each point, without validation.
        learning: What was spent on learning P beforehand, if anything.
    """

    steps: Sequence[int]
    losses: Sequence[float]
    seconds: Sequence[float]
    learning: Learning | None = None

    @property
    def final(self) -> float:
        """The final loss; infinite if the run diverged."""
        return self.losses[-1] if math.isfinite(self.losses[-1]) else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return the curve for JSON. A loss that is not finite becomes null."""
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
    """Something to train, in the same way for every arm.

    Attributes:
        name: Unique name; also used in file names.
        version: Change it when you change the task. Results of other versions are not reused.
        steps: Optimizer steps in a run.
        seeds_per_trial: Number of runs that a tuning trial averages over, for every arm.
        cost: Rough seconds of a trial. Expensive tasks start first.
    """

    name: str
    version: str
    steps: int
    seeds_per_trial: int = 1
    cost: float = 1.0

    @property
    def definition(self) -> str:
        """Text that changes whenever old results become invalid."""
        return f"{self.name} {self.version} {self.steps} {self.seeds_per_trial}"

    @abstractmethod
    def run(self, arm: Arm, values: Mapping[str, Scalar], seed: int) -> Curve:
        """Train once with the optimizer of ``arm`` at ``values``. ``seed`` sets initial weights and batches."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A newly initialised model and its losses.

    Attributes:
        model: The model. Its last matrix is the output layer; its embeddings are ``nn.Embedding``.
        batch_loss: Draws the next batch and returns its loss.
        validation_loss: Returns the loss on the fixed validation part.
    """

    model: nn.Module
    batch_loss: Callable[[], Tensor]
    validation_loss: Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class GradientTask(Task):
    """A task that is trained with gradient steps on batches.

    Attributes:
        problem: Makes the problem for a seed. torch is seeded before the call.
        warm_up: Number of linear warm-up steps.
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
    """Train for ``steps`` steps, or until the loss diverges.

    ``lr_factor`` takes the number of finished steps and returns the factor for the lr of each group.
    """
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
        except LinAlgError:  # the run diverged: a matrix to factorise is not finite
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
    """Return the steps at which a curve has its points, including the last step."""
    count = min(POINTS, steps)
    return [math.ceil(steps * i / count) for i in range(1, count + 1)]


def _step(problem: Problem, optimizers: Sequence[Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    problem.batch_loss().backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()


def _validate(problem: Problem, optimizers: Sequence[Optimizer]) -> float:
    """Return the validation loss. Uses the averaged weights of optimizers that keep them."""
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
