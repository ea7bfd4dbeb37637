# One training run, as a generator of its progress. It knows nothing of Optuna, SQL or HTTP, and nothing of who decides
# whether it goes on: whoever iterates it may simply stop. A run that was stopped or killed goes on from its last
# checkpoint and ends as it would have.
"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from service.training.catalog import Task
from service.training.checkpoint import Checkpoints
from service.training.datasets import load
from service.training.learned_p import apply_p, write_p
from service.training.models import LOSSES, SCORES, build_network
from service.training.optimizers import build_optimizer, make_schedule
from service.training.run import DivergedError, Progress, Run

POINTS: Final = 20
"""Points of a learning curve: the validation loss is measured this many times in a run, the last at its end."""


def train(run: Run) -> Iterator[Progress]:
    """Train, yielding ``POINTS`` points (one a step in a shorter run).

    A run that finds a checkpoint of itself yields the points it had reached by then again and goes on from there. On
    the CPU, with as many threads, it then ends as an uninterrupted run does, to the last bit.

    Raises:
        DivergedError: The training or validation loss is not finite.
    """
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    state = _State(run)
    checkpoints = Checkpoints(run)
    saved = checkpoints.newest()
    if saved is not None:
        state.restore(saved)
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
    if run.p_url is not None:
        state.keep_p(run.p_url)


def report_steps(steps: int) -> list[int]:
    """Return the steps at which a run of so many steps has a point."""
    count = min(POINTS, steps)
    return [math.ceil(steps * i / count) for i in range(1, count + 1)]


class _State:
    """All that changes in a run, and so all that a checkpoint holds."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._data = _Data(run)
        self._model = build_network(run.model, run.shape, run.sizes, run.activation).to(run.device)
        self._optimizer = build_optimizer(run.arm, self._model, run.config)
        if run.from_p_url is not None:
            apply_p(self._optimizer, run.from_p_url, run.from_p_sha256)
        self._schedule = make_schedule(self._optimizer, run)
        self._total_loss = torch.zeros((), device=run.device)
        self.step, self.seconds = 0, 0.0
        self.points: list[Progress] = []

    def train_step(self) -> None:
        x, y = self._data.next_batch()
        loss = self._data.loss(self._model(x), y)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._schedule.step()
        self._total_loss += loss.detach()
        self.step += 1

    def mean_loss(self) -> float:
        """Return the mean over the steps since the last point; waits for the device."""
        last_step = self.points[-1].step if self.points else 0
        return self._total_loss.item() / (self.step - last_step)

    def measure(self, train_loss: float) -> Progress:
        """Add a point to the learning curve."""
        run = self._run
        val_loss, val_score = self._data.evaluate(self._model, "val")
        tested = run.test and self.step == run.steps
        test_loss, test_score = self._data.evaluate(self._model, "test") if tested else (None, None)
        for name, value in (("training", train_loss), ("validation", val_loss), ("test", test_loss or 0.0)):
            if not math.isfinite(value):
                raise DivergedError(f"the {name} loss is {value} after {self.step} of {run.steps} steps")
        self._total_loss.zero_()
        self.points.append(Progress(self.step, train_loss, val_loss, self.seconds, test_loss, val_score, test_score))
        return self.points[-1]

    def keep_p(self, url: str) -> None:
        """Write the P that was learned, where there is one."""
        write_p(self._optimizer, url)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        cuda = torch.device(self._run.device).type == "cuda"
        return {
            "step": self.step,
            "seconds": self.seconds,
            "points": [tuple(point) for point in self.points],
            "total_loss": self._total_loss,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "epoch_rng": self._data.epoch_rng,
            "batches_taken": self._data.taken,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self._run.device) if cuda else None,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to where :meth:`to_dict` was called."""
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.points = [Progress(*point) for point in saved["points"]]
        self._total_loss.copy_(saved["total_loss"])
        self._model.load_state_dict(saved["model"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._schedule.load_state_dict(saved["schedule"])
        self._data.go_to(saved["epoch_rng"], saved["batches_taken"])
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"] is not None and torch.device(self._run.device).type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"], self._run.device)


class _Data:
    """The split as tensors on the run's device, its batches and its loss.

    Attributes:
        epoch_rng: State of the generator before it shuffled the epoch that the last batch is of.
        taken: Batches of that epoch so far.
    """

    def __init__(self, run: Run) -> None:
        split = load(run.data_url, run.data_sha256)
        names = ("train", "val", "test")
        self.x = {name: torch.from_numpy(getattr(split, f"x_{name}")).to(run.device) for name in names}
        self.y = (
            self.x
            if run.task is Task.AUTOENCODING
            else {name: torch.from_numpy(getattr(split, f"y_{name}")).to(run.device) for name in names}
        )
        self.task, self.loss = run.task, LOSSES[run.task]
        self._batch_size = min(run.batch_size, len(self.x["train"]))
        self._order = torch.Generator().manual_seed(run.seed)
        self._batches: list[Tensor] = []
        self.epoch_rng = self._order.get_state()
        self.taken = 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Return the next rows; a remainder of an epoch that fills no batch is left out."""
        if self.taken == len(self._batches):
            self._shuffle()
        rows = self._batches[self.taken]
        self.taken += 1
        return self.x["train"][rows], self.y["train"][rows]

    def go_to(self, epoch_rng: Tensor, taken: int) -> None:
        """Go on after the first ``taken`` batches of an epoch."""
        self._order.set_state(epoch_rng)
        self._shuffle()
        self.taken = taken

    def _shuffle(self) -> None:
        self.epoch_rng, self.taken = self._order.get_state(), 0
        rows = len(self.x["train"])
        order = torch.randperm(rows, generator=self._order).to(self.x["train"].device)
        self._batches = list(torch.split(order[: rows - rows % self._batch_size], self._batch_size))

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str) -> tuple[float, float]:
        """Return the loss, and the accuracy or R2."""
        model.eval()
        output, y = model(self.x[part]), self.y[part]
        model.train()
        return self.loss(output, y).item(), SCORES[self.task](output, y).item()
