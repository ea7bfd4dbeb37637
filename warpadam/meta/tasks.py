"""The tasks that a user supplies to learn P over a family, and training on one of them.

``trainer.py`` and ``replay.py`` learn P from this training.
"""

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
"""The loss of one fixed batch, as a scalar tensor. The same model must always give the same loss."""


class Task(Protocol):
    """One task of a family. The models of all its tasks have the same parameter names and shapes.

    Take everything random from torch's global generator, which the trainer seeds and restores. Then a run with the same
    seed gives the same P.
    """

    def make_model(self) -> nn.Module:
        """Return a new model, as it is at the start of training."""
        ...

    def sample(self) -> Loss:
        """Draw a new batch and return its loss."""
        ...


@contextmanager
def seeded(*keys: int) -> Iterator[None]:
    """Seed torch's global generator from numbers of at least 0, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(numpy.random.SeedSequence(keys).generate_state(1, numpy.uint64)[0]))
        yield


def start_task(task: Task, config: WarpAdamConfig, warp: Warp | None) -> tuple[nn.Module, WarpAdam]:
    """Return a new model, and an optimizer that starts from P for its trained parameters."""
    model = task.make_model()
    trained = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    optimizer = WarpAdam.from_config(trained, config)
    if warp is not None:
        warp.apply(optimizer)
    return model, optimizer


def take_gradient(model: nn.Module, loss: Loss) -> bool:
    """Put the gradient of a loss into the model's parameters. Return whether the loss is finite."""
    model.zero_grad()
    with torch.enable_grad():
        value = loss(model)
        value.backward()  # type: ignore[no-untyped-call]
    return bool(value.isfinite())


def train_task(task: Task, config: WarpAdamConfig, warp: Warp | None, steps: int) -> tuple[nn.Module, WarpAdam] | None:
    """Train on one task.

    Returns:
        The trained model and its optimizer; None if a loss is not finite.
    """
    model, optimizer = start_task(task, config, warp)
    for _ in range(steps):
        if not take_gradient(model, task.sample()):
            return None
        optimizer.step()
    return model, optimizer
