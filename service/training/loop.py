"""One training run on one task, as a generator of its progress.

The caller may stop iterating at any point. A run that was stopped or killed continues from its last checkpoint and ends
as it would have. Knows nothing of Optuna, SQL or HTTP.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import torch

from service.optimizers import build_optimizer
from service.training.batches import Batches
from service.training.best import BestWeights, is_out_of_patience
from service.training.checkpoint import Checkpoints
from service.training.learned_p import apply_p, write_p
from service.training.networks import build_network
from service.training.run import CurvePoint, DivergedError, Run
from service.training.step import TrainingStep, training_loss
from service.training.tasks import loss_of
from service.training.weights import write_weights

POINTS: Final = 40
"""Points of a learning curve: the validation loss is measured this many times in a run, the last at its end. A network
that overfits a small table may be at its best after a tenth of the run, where there must still be some points."""


def train(run: Run) -> Iterator[CurvePoint]:
    """Train, yielding ``POINTS`` points (one a step in a shorter run), fewer if its patience ends it early.

    A run that finds its own checkpoint yields the earlier points again and continues from there. On the CPU, with the
    same number of threads, it ends bit for bit as an uninterrupted run does.

    Raises:
        DivergedError: The training or validation loss is not finite.
    """
    torch.set_num_threads(run.threads)
    checkpoints = Checkpoints(run)
    state = checkpoints.resume(partial(_State, run))
    yield from list(state.points)
    for step in report_steps(run.steps)[len(state.points) :]:
        started = time.perf_counter()
        while state.step < step:
            state.train_step()
            if checkpoints.due():
                state.seconds += time.perf_counter() - started
                checkpoints.save(state.step, state.to_dict())
                started = time.perf_counter()
        train_loss = state.mean_loss()
        state.seconds += time.perf_counter() - started
        yield state.measure(train_loss)
        if state.ended:
            break
    write_p(state.optimizer, run)
    write_weights(state.model, run)


def report_steps(steps: int) -> list[int]:
    """Return the steps at which a run of ``steps`` steps has a point."""
    count = min(POINTS, steps)
    return [math.ceil(steps * i / count) for i in range(1, count + 1)]


class _State:
    """Everything that changes in a run: what a checkpoint holds."""

    def __init__(self, run: Run, saved: Mapping[str, Any] | None = None) -> None:
        torch.manual_seed(run.seed)
        self._run = run
        self._data = Batches(run)
        self.model = build_network(run.model, run.shape, run.sizes, run.activation).to(run.device)
        self.optimizer = build_optimizer(run.arm, self.model, run.config)
        apply_p(self.optimizer, run)
        loss = training_loss(loss_of(run.task), run.training, self._data.targets, run.sizes[-1], run.device)
        self._step = TrainingStep(self.model, self.optimizer, loss, run.training, run.steps, run.device)
        self._total_loss = torch.zeros((), device=run.device)
        self._best = BestWeights(self.model) if run.best_by and run.test else None
        self.step, self.seconds = 0, 0.0
        self.points: list[CurvePoint] = []
        if saved is not None:
            self._restore(saved)

    def train_step(self) -> None:
        self._total_loss += self._step(*self._data.next_batch())
        self.step += 1

    def mean_loss(self) -> float:
        """Return the mean over the steps since the last point; waits for the device."""
        last_step = self.points[-1].step if self.points else 0
        return self._total_loss.item() / (self.step - last_step)

    @property
    def ended(self) -> bool:
        """Whether the run has done all its steps, or has not become better for as many as its patience allows."""
        steps, costs = [point.step for point in self.points], [self._run.cost(point) for point in self.points]
        return self.step == self._run.steps or is_out_of_patience(self._run.training.patience, steps, costs)

    def measure(self, train_loss: float) -> CurvePoint:
        """Add a point to the learning curve. The last one gets the test loss, if the run is tested."""
        val_loss, val_score = self._data.evaluate(self.model, "val")
        self._check_finite(training=train_loss, validation=val_loss)
        self._total_loss.zero_()
        self.points.append(CurvePoint(self.step, train_loss, val_loss, self.seconds, val_score=val_score))
        if self._best is not None:
            self._best.add(self._run.cost(self.points[-1]))
        if self.ended and self._run.test:
            if self._best is not None:
                self._best.restore()
            test_loss, test_score = self._data.evaluate(self.model, "test")
            self._check_finite(test=test_loss)
            trivial = self._data.trivial()
            self.points[-1] = self.points[-1]._replace(test_loss=test_loss, test_score=test_score, trivial=trivial)
        return self.points[-1]

    def _check_finite(self, **losses: float) -> None:
        for name, value in losses.items():
            if not math.isfinite(value):
                raise DivergedError(f"the {name} loss is {value} after {self.step} of {self._run.steps} steps")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        cuda = torch.device(self._run.device).type == "cuda"
        return {
            "step": self.step,
            "seconds": self.seconds,
            "points": [tuple(point) for point in self.points],
            "total_loss": self._total_loss,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "training_step": self._step.state_dict(),
            "best": None if self._best is None else self._best.state_dict(),
            "epoch_rng": self._data.epoch_rng,
            "batches_taken": self._data.taken,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self._run.device) if cuda else None,
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to where :meth:`to_dict` was called."""
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.points = [CurvePoint(*point) for point in saved["points"]]
        self._total_loss.copy_(saved["total_loss"])
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self._step.load_state_dict(saved["training_step"])
        if self._best is not None:
            self._best.load_state_dict(saved["best"])
        self._data.go_to(saved["epoch_rng"], saved["batches_taken"])
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"] is not None and torch.device(self._run.device).type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"], self._run.device)
