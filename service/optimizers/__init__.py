"""The optimizers of the service.

To add one, write its entry here, and a function like ``build_sgd``; outside of the service, call
``OPTIMIZERS.register``. An entry with a search space can be named in ``baselines`` of a spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import JsonValue

from search_spaces import Scalar, SearchSpace, adamw_config, get_preset, joined_betas, warpadam_config
from service.registry import Registry, import_object

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from warpadam import WarpAdam


Config = Mapping[str, Any]
"""Arguments of an optimizer, as plain JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerEntry:
    """An optimizer that arms train with.

    Attributes:
        name: Its name; that of the arm too, if it is a baseline.
        build: Import string of ``(model, config) -> torch.optim.Optimizer``. Exported scripts contain the source of
            this function and of what it uses.
        config: From values of the search space to the arguments of the optimizer, as plain JSON values.
        library: Dotted name of what takes the arguments, as exports show it: the class, or a function that takes the
            model and the arguments as one dict.
        space: What the baseline of this name tunes; None if there is none.
        learns_p: Whether it learns a P while it trains.
        has_p: Whether it is a WarpAdam, which has a P.
        requires: Module that must be installed, and how to install it; None if torch and warpadam are enough.
        script_needs: What an exported script needs installed.
    """

    name: str
    build: str
    config: Callable[[Mapping[str, Scalar]], Mapping[str, JsonValue]]
    library: str
    space: SearchSpace | None = None
    learns_p: bool = False
    has_p: bool = False
    requires: tuple[str, str] | None = None
    script_needs: str = "torch and numpy"


def build_warpadam(model: nn.Module, config: Config) -> WarpAdam:
    """Return WarpAdam for a model."""
    from warpadam import WarpAdam, WarpAdamConfig

    return WarpAdam.from_config(model.named_parameters(), WarpAdamConfig.from_dict(config))


def build_random_p(model: nn.Module, config: Config) -> Optimizer:
    """Return WarpAdam between bases drawn at random: rotations that know nothing of the gradients."""
    import torch
    from torch import nn

    optimizer = build_warpadam(model, config)
    for param in model.parameters():
        bases = optimizer.get_distortion(param)
        for name, tensor in bases.items():
            if tensor.ndim >= 2 and tensor.shape[-1] == tensor.shape[-2]:
                blocks = tensor.reshape(-1, *tensor.shape[-2:])  # an axis that is too long has a stack of them
                drawn = [nn.init.orthogonal_(torch.empty_like(block)) for block in blocks]
                bases[name] = torch.stack(drawn).reshape(tensor.shape)
        optimizer.set_distortion(param, bases)
    return optimizer


def build_adamw(model: nn.Module, config: Config) -> Optimizer:
    """Return AdamW for a model."""
    import torch

    return torch.optim.AdamW(model.parameters(), **{**config, "betas": tuple(config["betas"])})


def build_soap(model: nn.Module, config: Config) -> Optimizer:
    """Return SOAP for a model."""
    from pytorch_optimizer import SOAP

    return SOAP(model.parameters(), **{**config, "betas": tuple(config["betas"])})


def build_sgd(model: nn.Module, config: Config) -> Optimizer:
    """Return SGD for a model."""
    import torch

    # jobs of earlier versions have a config without nesterov
    return torch.optim.SGD(model.parameters(), **{"nesterov": config["momentum"] > 0, **config})


OPTIMIZERS: Final = Registry[OptimizerEntry](
    "optimizer",
    (
        OptimizerEntry(
            name="warpadam",
            build=f"{__name__}:build_warpadam",
            config=lambda values: warpadam_config(values).to_dict(),
            library="warpadam.WarpAdam",
            learns_p=True,
            has_p=True,
            script_needs="torch, numpy and warpadam (pip install . in a clone of warptune)",
        ),
        OptimizerEntry(
            name="adamw",
            build=f"{__name__}:build_adamw",
            config=lambda values: adamw_config(values).to_dict(),
            library="torch.optim.AdamW",
            space=get_preset("adamw"),
        ),
        OptimizerEntry(
            name="muon",
            build="service.optimizers.muon_with_adamw:build_muon",
            config=dict,
            library="service.optimizers.muon_with_adamw.build_muon",
            space=get_preset("muon"),
        ),
        OptimizerEntry(
            name="soap",
            build=f"{__name__}:build_soap",
            config=joined_betas,
            library="pytorch_optimizer.SOAP",
            space=get_preset("soap"),
            requires=("pytorch_optimizer", "pip install '.[soap]' in your clone"),
            script_needs="torch, numpy and pytorch-optimizer (SOAP is its own: pip install pytorch-optimizer)",
        ),
        OptimizerEntry(
            name="sgd",
            build=f"{__name__}:build_sgd",
            config=lambda values: {**values, "nesterov": float(values["momentum"]) > 0},
            library="torch.optim.SGD",
            space=get_preset("sgd"),
        ),
        OptimizerEntry(
            name="random_p",
            build=f"{__name__}:build_random_p",
            config=lambda values: warpadam_config({"strategy": "kronecker/sandwich/frozen", **values}).to_dict(),
            library="warpadam.WarpAdam",
            has_p=True,
        ),
    ),
)
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
