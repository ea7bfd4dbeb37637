# From a spec to a torch module and its loss. The optimizers are in optimizers.py.
"""Models of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from service.training.catalog import Task

ACTIVATIONS: Final[Mapping[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

LOSSES: Final[Mapping[Task, Callable[[Tensor, Tensor], Tensor]]] = {
    Task.CLASSIFICATION: functional.cross_entropy,
    Task.REGRESSION: functional.mse_loss,
    Task.AUTOENCODING: functional.mse_loss,
}
"""Mean over the rows (and columns); a regression's target and an autoencoder's input are standardised."""


def _accuracy(output: Tensor, y: Tensor) -> Tensor:
    return (output.argmax(1) == y).float().mean()


def _r2(output: Tensor, y: Tensor) -> Tensor:
    return 1 - (output - y).square().sum() / (y - y.mean(0)).square().sum()


SCORES: Final[Mapping[Task, Callable[[Tensor, Tensor], Tensor]]] = {
    Task.CLASSIFICATION: _accuracy,
    Task.REGRESSION: _r2,
    Task.AUTOENCODING: _r2,
}
"""Share of the rows that are right; or share of the variance, of all columns together, that is explained."""


def build_model(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Return linear layers of the given widths with an activation between them, freshly initialised."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
