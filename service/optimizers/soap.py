"""SOAP of the package pytorch-optimizer, as a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from search_spaces import get_preset, joined_betas
from service.optimizers.entry import Config, OptimizerEntry

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def build_soap(model: nn.Module, config: Config) -> Optimizer:
    """Return SOAP for a model."""
    from pytorch_optimizer import SOAP

    return SOAP(model.parameters(), **{**config, "betas": tuple(config["betas"])})


SOAP: Final = OptimizerEntry(
    name="soap",
    build=f"{__name__}:build_soap",
    config=joined_betas,
    library="pytorch_optimizer.SOAP",
    space=get_preset("soap"),
    requires=("pytorch_optimizer", "pip install 'warptune[soap]'"),
    script_needs="torch, numpy and pytorch-optimizer (SOAP is its own: pip install pytorch-optimizer)",
)
