# One training run, as a generator of its progress. It knows nothing of Optuna, SQL or HTTP, and nothing of who decides
# whether it goes on: whoever iterates it may simply stop.
"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn

from service.training.catalog import Task
from service.training.datasets import load
from service.training.models import LOSSES, SCORES, build_model
from service.training.optimizers import build_optimizer
from service.training.run import Progress, Run

POINTS: Final = 20
"""Points of a learning curve: the validation loss is measured this many times in a run, the last at its end."""


class DivergedError(ArithmeticError):
    """A loss is not finite any more."""


def train(run: Run) -> Iterator[Progress]:
    """Train from fresh weights, yielding ``POINTS`` points (one a step in a shorter run).

    Raises:
        DivergedError: The training or validation loss is not finite.
    """
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    parts = _Parts(run)
    model = build_model(run.sizes, run.activation).to(run.device)
    optimizer = build_optimizer(run.arm, model, run.config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1.0 - step / run.steps if run.schedule == "linear" else 1.0
    )
    seconds, last_step = 0.0, 0
    batches = parts.batches()
    for step in _report_steps(run.steps):
        started = time.perf_counter()
        total = torch.zeros((), device=run.device)
        for _ in range(step - last_step):
            x, y = next(batches)
            loss = parts.loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.detach()
        train_loss = total.item() / (step - last_step)
        seconds += time.perf_counter() - started
        last_step = step
        val_loss, val_score = parts.evaluate(model, "val")
        test_loss, test_score = parts.evaluate(model, "test") if run.test and step == run.steps else (None, None)
        for name, value in (("training", train_loss), ("validation", val_loss), ("test", test_loss or 0.0)):
            if not math.isfinite(value):
                raise DivergedError(f"the {name} loss is {value} after {step} of {run.steps} steps")
        yield Progress(step, train_loss, val_loss, seconds, test_loss, val_score, test_score)


def _report_steps(steps: int) -> list[int]:
    count = min(POINTS, steps)
    return [math.ceil(steps * i / count) for i in range(1, count + 1)]


class _Parts:
    """The split as tensors on the run's device, its batches and its loss."""

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
        self.batch_size = min(run.batch_size, len(self.x["train"]))
        self.order = torch.Generator().manual_seed(run.seed)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield shuffled batches for ever; a remainder of an epoch that fills no batch is left out."""
        x, y = self.x["train"], self.y["train"]
        while True:
            order = torch.randperm(len(x), generator=self.order).to(x.device)
            for rows in torch.split(order, self.batch_size):
                if len(rows) == self.batch_size:
                    yield x[rows], y[rows]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str) -> tuple[float, float]:
        """Return the loss, and the accuracy or R2."""
        output, y = model(self.x[part]), self.y[part]
        return self.loss(output, y).item(), SCORES[self.task](output, y).item()
