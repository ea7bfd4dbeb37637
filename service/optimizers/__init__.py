"""The optimizers of the service, one file each.

To add one, write a file like ``sgd.py`` and list its entry here; outside of the service, call ``OPTIMIZERS.register``.
An entry with a search space can be named in ``baselines`` of a spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from search_spaces import SearchSpace
from service.optimizers.adamw import ADAMW
from service.optimizers.entry import OptimizerEntry
from service.optimizers.muon import MUON
from service.optimizers.sgd import SGD
from service.optimizers.soap import SOAP
from service.optimizers.warpadam import RANDOM_P, WARPADAM
from service.registry import Registry, import_object

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

__all__ = ["OPTIMIZERS", "OptimizerEntry", "baselines", "build_optimizer"]

OPTIMIZERS: Final = Registry[OptimizerEntry]("optimizer", (WARPADAM, ADAMW, MUON, SOAP, SGD, RANDOM_P))
"""Every optimizer by its name."""


def baselines() -> dict[str, SearchSpace]:
    """Return the arms that WarpAdam may be compared with, and what each tunes."""
    return {name: entry.space for name, entry in OPTIMIZERS.items() if entry.space is not None}


def build_optimizer(name: str, model: nn.Module, config: Mapping[str, JsonValue]) -> Optimizer:
    """Return the optimizer of a run.

    Args:
        name: Name of the optimizer.
        model: Its parameters are optimized.
        config: What the arm's ``ArmPlan.config`` returned.

    Raises:
        UnknownNameError: No optimizer has this name.
    """
    optimizer: Optimizer = import_object(OPTIMIZERS[name].build)(model, config)
    return optimizer
