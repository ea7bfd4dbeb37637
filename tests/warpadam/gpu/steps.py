"""Parameters of many shapes, fixed gradients, and steps on any device, for the tests of this folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from warpadam import Learner, Strategy, WarpAdam

SHAPES: list[tuple[int, ...]] = [(24, 16), (24, 16), (40, 12), (40, 36), (6, 3, 3, 3), (16,), (9,), ()]
"""Two matrices that are stacked, one axis and two axes over ``MAX_DIM``, a convolution, padded vectors, a scalar."""

MAX_DIM = 32
EVERY = 4

FLOAT32 = {Learner.FROZEN: 1e-5, Learner.HYPERGRADIENT: 1e-5, Learner.WHITENING: 1e-3, Learner.ROTATION: 0.02}
"""Largest difference after a dozen steps in float32 on two devices. A step is about 0.01 (``whitening``: 0.002).
``whitening`` enlarges rounding in directions that no gradient has had yet; ``rotation`` turns them at random."""


def make_params(device: torch.device, dtype: torch.dtype) -> list[nn.Parameter]:
    """Make the same parameters every time, up to the rounding of ``dtype``."""
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in SHAPES]
    return [nn.Parameter(value.to(device, dtype)) for value in values]


def make_optimizer(params: Iterable[nn.Parameter], strategy: Strategy, **settings: Any) -> WarpAdam:
    """Make an optimizer with limits that are small enough for blocks."""
    small: dict[str, Any] = {"lr": 0.01, "meta_every": EVERY, "max_dim": MAX_DIM, "block_size": 16, "rank": 2}
    return WarpAdam(params, **strategy._asdict(), **small, **settings)


def set_grads(params: Iterable[nn.Parameter], step: int) -> None:
    """Set the gradients of a step. They do not depend on the parameters, so small differences do not grow."""
    draw = torch.Generator().manual_seed(step)
    for param in params:
        grad = torch.randn(param.shape, generator=draw, dtype=torch.float64)
        param.grad = grad.to(torch.bfloat16).to(param)  # exact in every dtype that is tested


def train(params: list[nn.Parameter], optimizer: WarpAdam, steps: Iterable[int]) -> None:
    """Step with the gradients of each step."""
    for step in steps:
        set_grads(params, step)
        optimizer.step()


def on_cpu(params: Iterable[Tensor]) -> list[Tensor]:
    """Return the values in fp64 on the CPU."""
    return [param.detach().to("cpu", torch.float64) for param in params]


def updates_p(strategy: Strategy, step: int) -> bool:
    """Tell whether a step updates the P of a learner that follows covariances."""
    if strategy.learner == Learner.WHITENING:
        return step in (2, 4, 7) or step % EVERY == 0
    return strategy.learner == Learner.ROTATION and (step in (1, 2, 3, 5, 8) or (step > 1 and step % EVERY == 1))


def decomposes(strategy: Strategy, step: int) -> bool:
    """Tell whether a step takes a QR decomposition. Torch may wait for the device in it."""
    return strategy.learner == Learner.ROTATION and updates_p(strategy, step)


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """Make it an error to wait for the device. The CPU has nothing to wait for."""
    if device.type == "cpu":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it does not see every wait yet
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
