"""Trains a small GPT on real text with one optimizer at one learning rate, and follows its validation loss."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from benchmarks.gpu.clock import forget_peak, free_memory, peak_gib, seconds_now
from benchmarks.gpu.gpt import Gpt
from benchmarks.gpu.jobs import Figures, serve
from benchmarks.gpu.optimizers import TRAINED
from benchmarks.gpu.sizes import DEVICE, SIZES
from benchmarks.gpu.text import read_text
from benchmarks.gpu.tuning import split_job

WARM_UP: Final = 0.05
"""Share of the steps in which the lr rises."""

LAST_LR: Final = 0.1
"""The lr at the end, as a share of the highest."""

SEED: Final = 1
UNTIMED_STEPS: Final = 8
"""Steps of another model before the run, so that loading kernels is not timed. They include refreshes of P."""


class Run:
    """One model with its optimizers.

    Args:
        name: The optimizer's name.
        lr: Its highest learning rate.
        starts: Where each text of each batch starts in ``text``, (steps, batch).
        text: Training text.
    """

    def __init__(self, name: str, lr: float, starts: Tensor, text: Tensor) -> None:
        torch.manual_seed(SEED)
        self.model = Gpt(SIZES.trained).to(DEVICE)
        self._optimizers = TRAINED[name].make(self.model, lr)
        self._highest = [group["lr"] for optimizer in self._optimizers for group in optimizer.param_groups]
        self._starts, self._text = starts, text
        self._offsets = torch.arange(SIZES.trained.context + 1, device=DEVICE)
        self.steps_done = 0

    def train(self, steps: int) -> None:
        """Take some steps."""
        for _ in range(steps):
            self._set_lr(self.steps_done / SIZES.training_steps)
            places = self._starts[self.steps_done][:, None] + self._offsets
            self.model.zero_grad()
            self.model.loss(self._text[places].long()).backward()  # type: ignore[no-untyped-call]
            for optimizer in self._optimizers:
                optimizer.step()
            self.steps_done += 1

    def _set_lr(self, progress: float) -> None:
        factor = min(1.0, (progress + 1 / SIZES.training_steps) / WARM_UP) * (1 - (1 - LAST_LR) * progress)
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        for group, highest in zip(groups, self._highest, strict=True):
            group["lr"] = highest * factor


def measure(job: str) -> Figures:
    """Train once.

    Returns:
        ``curve``: (steps, seconds of training, validation loss) at each validation. ``diverged``: whether training
        stopped early because the loss was not finite. ``peak_gib``: the most memory during training. ``text``: the
        digest of the text.
    """
    name, lr = split_job(job)
    free_memory()
    text = read_text()
    train = text.train.to(DEVICE)
    draw = torch.Generator().manual_seed(SEED)
    starts = torch.randint(len(train) - SIZES.trained.context, (SIZES.training_steps, SIZES.batch), generator=draw).to(
        DEVICE
    )
    windows = _windows(text.held_out)
    untimed = Run(name, lr, starts, train)
    untimed.train(min(UNTIMED_STEPS, SIZES.training_steps))
    del untimed
    run = Run(name, lr, starts, train)
    forget_peak()
    curve: list[tuple[int, float, float]] = []
    seconds, diverged = 0.0, False
    while run.steps_done < SIZES.training_steps and not diverged:
        started = seconds_now()
        run.train(SIZES.validate_every)
        seconds += seconds_now() - started
        loss = _validation_loss(run.model, windows)
        diverged = not math.isfinite(loss)
        if not diverged:
            curve.append((run.steps_done, round(seconds, 3), loss))
    return {"curve": curve, "diverged": diverged, "peak_gib": peak_gib(), "text": text.digest}


def _windows(text: Tensor) -> Tensor:
    """Return validation texts (windows, context + 1), spread evenly."""
    starts = torch.linspace(0, len(text) - SIZES.trained.context - 1, SIZES.windows).long()
    return text[starts[:, None] + torch.arange(SIZES.trained.context + 1)].to(DEVICE).long()


@torch.no_grad()
def _validation_loss(model: Gpt, windows: Tensor) -> float:
    batches: tuple[Tensor, ...] = windows.split(SIZES.batch)  # type: ignore[no-untyped-call]
    return sum(model.loss(batch).item() * len(batch) for batch in batches) / len(windows)


if __name__ == "__main__":
    serve(measure)
