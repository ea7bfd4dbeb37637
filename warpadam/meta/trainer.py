"""Learns one P over many tasks.

Each round trains on one or more tasks. Only P is carried to the next round. Every random draw depends on the seed and
the round alone, so a run that was stopped and resumed gives the same P as one that was not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import torch
from torch import Tensor

from warpadam.config import Learner, Limits, WarpAdamConfig
from warpadam.errors import InvalidConfigError
from warpadam.learners.normalised import init_normalised
from warpadam.meta.replay import ReplayBuffer, learn_from
from warpadam.meta.tasks import Task, seeded, start_task, train_task
from warpadam.meta.warp import Warp

MODES: Final = ("online", "offline")

_MODEL, _ORDER, _VISIT, _LEARN, _VALIDATION = range(5)
"""The uses of the seed; each gets its own random numbers."""

_VALIDATION_BATCHES: Final = 8
"""New batches whose mean loss is the score of a validation task."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MetaConfig:
    """How P is learned over tasks.

    Attributes:
        mode: ``online`` learns P while it trains on a task, and carries P from task to task. ``offline`` trains on
            several tasks with P fixed, then learns P from the points that training passed. Only the learner
            ``hypergradient`` can learn offline: the others follow gradient covariances and have no meta-gradient.
        steps: Training steps on each task, at least 2, because the first step teaches nothing.
        seed: Seed of everything that is random.
        validate_every: Rounds between two scores on the validation tasks.
        tasks_per_round: Offline: tasks to train on before P is learned. Online, a round is one task.
        buffer_size: Offline: points to keep in a round.
        meta_batch_size: Offline: points for each step of P.

    Raises:
        InvalidConfigError: A value is out of its range.
    """

    mode: str = "online"
    steps: int = 50
    seed: int = 0
    validate_every: int = 10
    tasks_per_round: int = 4
    buffer_size: int = 256
    meta_batch_size: int = 8

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidConfigError("mode", self.mode, f"must be one of {', '.join(MODES)}")
        lowest = {
            "steps": 2,
            "seed": 0,
            "validate_every": 1,
            "tasks_per_round": 1,
            "buffer_size": 1,
            "meta_batch_size": 1,
        }
        for name, low in lowest.items():
            value, limits = getattr(self, name), Limits(low, whole=True)
            if not limits.allows(value):
                raise InvalidConfigError(name, value, f"must be {limits}")


@final
@dataclass(frozen=True, slots=True)
class MetaResult:
    """The result of meta-training.

    Attributes:
        warp: The P to use: the best on the validation tasks, or the last one if there are none.
        last: The P after the last round.
        scores: Mean validation loss by the number of rounds before it. 0 is the P at the start.
        skipped: Number of tasks that were ignored because a loss or their P was not finite.
    """

    warp: Warp
    last: Warp
    scores: dict[int, float]
    skipped: int


@final
class MetaTrainer:
    """Learns P over a family of tasks.

    Online, each task starts with a new model and the P of the task before: factors, covariances and learned scale. All
    moments start at zero. Offline is algorithm 2 of WarpGrad. If a loss of a task is not finite, the task changes
    nothing and is counted in the result.

    Args:
        tasks: Visited in random order, each once before any is visited again.
        config: Settings of the optimizer that learns P.
        meta: How P is learned.
        validation: Tasks that choose the best P. They should not be among ``tasks``.
        validation_config: Settings of the optimizer on the validation tasks, which are scored after ``meta.steps``
            steps. By default ``config`` with a ``p_lr`` of 0.
        start: P to start from. By default the identity.

    Raises:
        InvalidConfigError: There are no tasks, or the mode cannot learn with this learner.
        WarpMismatchError: ``start`` does not fit the tasks' model.

    Source: Flennerhag et al. 2019 (arXiv 1909.00025); Pan, Chen & Ye 2024 (arXiv 2409.04244).

    >>> class Parabola:
    ...     def make_model(self):
    ...         return torch.nn.Linear(2, 1, bias=False)
    ...
    ...     def sample(self):
    ...         inputs = torch.randn(8, 2) * torch.tensor([1.0, 10.0])
    ...         return lambda model: model(inputs).square().mean()
    >>> trainer = MetaTrainer([Parabola()], WarpAdamConfig(lr=0.05), MetaConfig(steps=5))
    >>> trainer.train(rounds=3).skipped
    0
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        config: WarpAdamConfig,
        meta: MetaConfig,
        *,
        validation: Sequence[Task] = (),
        validation_config: WarpAdamConfig | None = None,
        start: Warp | None = None,
    ) -> None:
        if not tasks:
            raise InvalidConfigError("tasks", tasks, "must have at least one task")
        if meta.mode == "offline" and config.learner != Learner.HYPERGRADIENT:
            raise InvalidConfigError(
                "learner",
                config.learner,
                "must be hypergradient in the offline mode",
                "The other learners follow the gradients of a run: learn them online.",
            )
        self._tasks, self._config, self._meta, self._validation = tasks, config, meta, validation
        self._validation_config = validation_config or replace(config, p_lr=0.0)
        with seeded(meta.seed, _MODEL):
            _, optimizer = start_task(tasks[0], config, start)
        self._warp = Warp.of(optimizer)
        self._normalisers: dict[str, dict[str, Tensor]] = {}
        self._best: dict[str, dict[str, Tensor]] | None = None
        self._scores: dict[int, float] = {}
        self._rounds = self._skipped = 0

    def train(self, rounds: int) -> MetaResult:
        """Train for some more rounds. Two calls with 10 rounds give the same as one with 20."""
        if self._rounds == 0 and not self._scores:
            self._validate()
        for _ in range(rounds):
            self._offline() if self._meta.mode == "offline" else self._online()
            self._rounds += 1
            if self._rounds % self._meta.validate_every == 0:
                self._validate()
        best = self._warp if self._best is None else self._warp.with_tensors(self._best)
        return MetaResult(best, self._warp, dict(self._scores), self._skipped)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state for :meth:`load_state_dict`: numbers, and tensors by name."""
        return copy.deepcopy(
            {
                "rounds": self._rounds,
                "skipped": self._skipped,
                "warp": self._warp.tensors(),
                "normalisers": self._normalisers,
                "best": self._best,
                "scores": self._scores,
            }
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state. The trainer must have been made with the same arguments."""
        state = copy.deepcopy(state_dict)
        self._rounds, self._skipped = state["rounds"], state["skipped"]
        self._warp = self._warp.with_tensors(state["warp"])
        self._normalisers, self._best, self._scores = state["normalisers"], state["best"], state["scores"]

    def _online(self) -> None:
        with seeded(self._meta.seed, _VISIT, self._rounds):
            trained = train_task(self._task(self._rounds), self._config, self._warp, self._meta.steps)
        warp = Warp.of(trained[1]) if trained else None
        if warp is not None and warp.is_finite():
            self._warp = warp
        else:
            self._skipped += 1

    def _offline(self) -> None:
        meta = self._meta
        buffer = ReplayBuffer(meta.buffer_size)
        first = self._rounds * meta.tasks_per_round
        for visit in range(first, first + meta.tasks_per_round):
            with seeded(meta.seed, _VISIT, visit):
                self._skipped += not buffer.collect(self._task(visit), self._config, self._warp, meta.steps)
        tensors = copy.deepcopy(self._warp.tensors())
        state = {name: {**init_normalised(t), **t, **self._normalisers.get(name, {})} for name, t in tensors.items()}
        with seeded(meta.seed, _LEARN, self._rounds):
            learn_from(buffer.visits, self._config, state, meta.meta_batch_size)
        self._warp = self._warp.with_tensors({n: {key: state[n][key] for key in tensors[n]} for n in tensors})
        self._normalisers = {n: {k: v for k, v in state[n].items() if k not in tensors[n]} for n in tensors}

    def _task(self, visit: int) -> Task:
        epoch, place = divmod(visit, len(self._tasks))
        with seeded(self._meta.seed, _ORDER, epoch):
            return self._tasks[int(torch.randperm(len(self._tasks), device="cpu")[place])]

    def _validate(self) -> None:
        """Score the current P on the validation tasks, always with the same draws. Keep it if it is the best."""
        if not self._validation:
            return
        losses = [self._score(index, task) for index, task in enumerate(self._validation)]
        score = sum(losses) / len(losses)
        if not math.isfinite(score):
            score = math.inf
        if self._best is None or score < min(self._scores.values()):
            self._best = copy.deepcopy(self._warp.tensors())
        self._scores[self._rounds] = score

    def _score(self, index: int, task: Task) -> float:
        with seeded(self._meta.seed, _VALIDATION, index):
            trained = train_task(task, self._validation_config, self._warp, self._meta.steps)
            if trained is None:
                return math.inf
            with torch.no_grad():
                return sum(float(task.sample()(trained[0])) for _ in range(_VALIDATION_BATCHES)) / _VALIDATION_BATCHES
