"""WarpAdam, and WarpAdam with a random P, which is a control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from search_spaces import warpadam_config
from service.optimizers.entry import Config, OptimizerEntry

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def build_warpadam(model: nn.Module, config: Config) -> Optimizer:
    """Return WarpAdam for a model."""
    from warpadam import WarpAdam, WarpAdamConfig

    return WarpAdam.from_config(model.named_parameters(), WarpAdamConfig.from_dict(config))


def build_random_p(model: nn.Module, config: Config) -> Optimizer:
    """Return WarpAdam between bases drawn at random: rotations that know nothing of the gradients."""
    import torch
    from torch import nn

    from warpadam import WarpAdam, WarpAdamConfig

    optimizer = WarpAdam.from_config(model.named_parameters(), WarpAdamConfig.from_dict(config))
    for param in model.parameters():
        bases = optimizer.get_distortion(param)
        for name, tensor in bases.items():
            if tensor.ndim >= 2 and tensor.shape[-1] == tensor.shape[-2]:
                bases[name] = nn.init.orthogonal_(torch.empty_like(tensor))
        optimizer.set_distortion(param, bases)
    return optimizer


WARPADAM: Final = OptimizerEntry(
    name="warpadam",
    build=f"{__name__}:build_warpadam",
    config=lambda values: warpadam_config(values).to_dict(),
    library="warpadam.WarpAdam",
    learns_p=True,
    has_p=True,
    script_needs="torch, numpy and warpadam (pip install warptune)",
)
RANDOM_P: Final = OptimizerEntry(
    name="random_p",
    build=f"{__name__}:build_random_p",
    config=lambda values: warpadam_config({"strategy": "kronecker/sandwich/frozen", **values}).to_dict(),
    library="warpadam.WarpAdam",
    has_p=True,
)
