# From a spec to a torch module and from an arm to a torch optimizer. The only file that says which class a baseline's
# name stands for.
"""Models and optimizers of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.training.catalog import Task
from warpadam import WarpAdam, WarpAdamConfig

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


def build_model(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Return linear layers of the given widths with an activation between them, freshly initialised."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def build_optimizer(arm: str, model: nn.Module, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimizer that an arm trains with.

    Args:
        arm: ``warpadam`` or the name of a baseline.
        model: Its parameters are optimized.
        config: What the arm's ``ArmPlan.config`` returned.
    """
    if arm == "warpadam":
        return WarpAdam.from_config(model.named_parameters(), WarpAdamConfig.from_dict(config))
    if arm == "adamw":
        return torch.optim.AdamW(model.parameters(), **{**config, "betas": tuple(config["betas"])})
    raise ValueError(f"arm {arm!r} has no optimizer")
