"""SGD of PyTorch with Nesterov's momentum, as a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from search_spaces import get_preset
from service.optimizers.entry import Config, OptimizerEntry

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def build_sgd(model: nn.Module, config: Config) -> Optimizer:
    """Return SGD for a model."""
    import torch

    return torch.optim.SGD(model.parameters(), **config, nesterov=config["momentum"] > 0)


SGD: Final = OptimizerEntry(
    name="sgd",
    build=f"{__name__}:build_sgd",
    config=dict,
    library="torch.optim.SGD",
    space=get_preset("sgd"),
)
