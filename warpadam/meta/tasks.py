# What a user supplies to learn P over a family, and one visit to one of its tasks. Knows no meta-learning: what is
# learned from visits is in trainer.py and replay.py.
"""A family of tasks, and the steps inside one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy
import torch
from torch import Tensor, nn

from warpadam.config import WarpAdamConfig
from warpadam.meta.warp import Warp
from warpadam.optimizer import WarpAdam

Loss = Callable[[nn.Module], Tensor]
"""The loss of one fixed batch, as a scalar; called again with the same model it must give the same."""


class Task(Protocol):
    """One task of a family. All tasks of a family have models with the same parameter names and shapes.

    Whatever is random must come from torch's global generator, which the trainer seeds and restores: then a run with
    the same seed gives the same P.
    """

    def make_model(self) -> nn.Module:
        """Return the model at the start of training: a fresh one, at every call."""
        ...

    def sample(self) -> Loss:
        """Draw a fresh batch and return its loss."""
        ...


@contextmanager
def seeded(*keys: int) -> Iterator[None]:
    """Seed torch's global generator from some numbers >= 0, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(numpy.random.SeedSequence(keys).generate_state(1, numpy.uint64)[0]))
        yield


def start_task(task: Task, config: WarpAdamConfig, warp: Warp | None) -> tuple[nn.Module, WarpAdam]:
    """Return a fresh model, and an optimizer for what of it is trained, starting from P."""
    model = task.make_model()
    trained = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    optimizer = WarpAdam.from_config(trained, config)
    if warp is not None:
        warp.apply(optimizer)
    return model, optimizer


def take_gradient(model: nn.Module, loss: Loss) -> bool:
    """Put the gradient of a loss into the model's parameters; tell whether the loss is finite."""
    model.zero_grad()
    with torch.enable_grad():
        value = loss(model)
        value.backward()  # type: ignore[no-untyped-call]
    return bool(value.isfinite())


def train_task(task: Task, config: WarpAdamConfig, warp: Warp | None, steps: int) -> tuple[nn.Module, WarpAdam] | None:
    """Train on one task.

    Returns:
        The trained model and its optimizer, or None as soon as a loss is not finite.
    """
    model, optimizer = start_task(task, config, warp)
    for _ in range(steps):
        if not take_gradient(model, task.sample()):
            return None
        optimizer.step()
    return model, optimizer
