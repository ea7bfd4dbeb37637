"""AdamW of PyTorch, the baseline of every job that names no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from search_spaces import adamw_config, get_preset
from service.optimizers.entry import Config, OptimizerEntry

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def build_adamw(model: nn.Module, config: Config) -> Optimizer:
    """Return AdamW for a model."""
    import torch

    return torch.optim.AdamW(model.parameters(), **{**config, "betas": tuple(config["betas"])})


ADAMW: Final = OptimizerEntry(
    name="adamw",
    build=f"{__name__}:build_adamw",
    config=lambda values: adamw_config(values).to_dict(),
    library="torch.optim.AdamW",
    space=get_preset("adamw"),
)
