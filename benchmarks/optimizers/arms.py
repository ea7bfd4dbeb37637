"""The optimizers under comparison: what is tuned for each, its lr schedule, and how to build it from tuned values.

Every arm tunes what its users usually tune, and has as many first trials as WarpAdam. Where an arm has the same
settings as Adam, it searches the same ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.utils.graft import LayerWiseGrafting
from torch import nn
from torch.optim import Optimizer

import warpadam
from benchmarks.optimizers.code_digest import code_digest
from search_spaces import (
    Choice,
    Domain,
    Float,
    Parameter,
    Scalar,
    SearchSpace,
    adamw_config,
    get_preset,
    warpadam_config,
)
from search_spaces.presets import ADAM
from warpadam import WarpAdam, param_groups

Values = Mapping[str, Scalar]

MakeOptimizers = Callable[[nn.Module, Values, int, int], list[Optimizer]]
"""Takes the model, the values, the steps of the run and of its warm-up; returns optimizers to step together."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One optimizer under comparison.

    Attributes:
        name: Unique name; also used in file names.
        title: Name for tables and plots.
        space: Search space of the values to tune.
        optimizers: Builds the optimizers for a model.
        code: Digest or version of the optimizer's code. Results of other code are not reused.
        schedule: ``linear`` warms up as the task says and then decays the lr to 0. ``constant`` keeps the lr; the
            optimizer does its own warm-up.
        lrs: Names of the values that are an lr. :meth:`scaled` scales them together.
    """

    name: str
    title: str
    space: SearchSpace
    optimizers: MakeOptimizers
    code: str
    schedule: Literal["linear", "constant"] = "linear"
    lrs: tuple[str, ...] = ("lr",)

    @property
    def definition(self) -> str:
        """Text that changes whenever old results become invalid."""
        return f"{self.name} {self.code} {self.schedule} {self.space!r}"

    def lr_factor(self, step: int, steps: int, warm_up: int) -> float:
        """Return the factor for the lr after ``step`` of ``steps`` steps."""
        if self.schedule == "constant":
            return 1.0
        return min(1.0, (step + 1) / (warm_up + 1)) * (1.0 - step / steps)

    def scaled(self, values: Values, factor: float) -> dict[str, Scalar]:
        """Return the values with every lr multiplied by ``factor``."""
        return {name: float(value) * factor if name in self.lrs else value for name, value in values.items()}


def split(model: nn.Module) -> tuple[list[nn.Parameter], nn.Parameter, list[nn.Parameter]]:
    """Return the hidden matrices, the output layer's matrix, and all other parameters (embeddings, vectors)."""
    embedded = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    matrices = [param for param in model.parameters() if param.ndim == 2 and id(param) not in embedded]
    others = [param for param in model.parameters() if param.ndim != 2 or id(param) in embedded]
    return matrices[:-1], matrices[-1], others


def decayed(params: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Return two parameter groups: one with weight decay, and the vectors, which no arm decays."""
    listed = list(params)
    vectors = {"params": [param for param in listed if param.ndim < 2], "weight_decay": 0.0}
    return [{"params": [param for param in listed if param.ndim >= 2]}, vectors]


def has_embeddings(model: nn.Module) -> bool:
    """Tell whether the model has an ``nn.Embedding``."""
    return any(isinstance(module, nn.Embedding) for module in model.modules())


def _warpadam(model: nn.Module, values: Values, _steps: int, _warm_up: int) -> list[Optimizer]:
    config = warpadam_config(values)
    return [WarpAdam.from_config(param_groups(model, config), config)]


def _adamw(model: nn.Module, values: Values, _steps: int, _warm_up: int) -> list[Optimizer]:
    return [torch.optim.AdamW(decayed(model.parameters()), fused=True, **adamw_config(values).to_dict())]


def _split_for_muon(model: nn.Module, values: Values) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    hidden, output, others = split(model)
    (hidden if values["output_layer"] == "muon" else others).append(output)
    return hidden, others


def _muon(model: nn.Module, values: Values, _steps: int, _warm_up: int) -> list[Optimizer]:
    hidden, others = _split_for_muon(model, values)
    decay = float(values["weight_decay"])
    muon = torch.optim.Muon(
        hidden,
        lr=float(values["lr"]),
        momentum=float(values["momentum"]),
        weight_decay=decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        decayed(others), lr=float(values["adamw_lr"]), betas=(0.9, 0.95), weight_decay=decay, fused=True
    )
    return [muon, adamw]


def _normuon(model: nn.Module, values: Values, _steps: int, _warm_up: int) -> list[Optimizer]:
    hidden, others = _split_for_muon(model, values)
    decay = float(values["weight_decay"])
    groups = [
        {"params": hidden, "use_muon": True, "lr": float(values["lr"]), "weight_decay": decay},
        *(
            {"weight_decay": decay, **group, "use_muon": False, "lr": float(values["adamw_lr"])}
            for group in decayed(others)
            if group["params"]
        ),
    ]
    return [pytorch_optimizer.NorMuon(groups, momentum=float(values["momentum"]), update_scale="match_rms")]


def _soap(model: nn.Module, values: Values, _steps: int, _warm_up: int) -> list[Optimizer]:
    return [pytorch_optimizer.SOAP(decayed(model.parameters()), **_with_betas(values))]


def _shampoo(model: nn.Module, values: Values, _steps: int, _warm_up: int) -> list[Optimizer]:
    # Compute roots every 2 steps. Every step is slower than all other arms; every 5 steps gave higher losses. Only the
    # transformer uses 5, because with 2 its runs would take longer than those of all other arms together.
    settings = _with_betas(values)
    return [
        pytorch_optimizer.ScalableShampoo(
            decayed(model.parameters()),
            graft_type=LayerWiseGrafting[settings.pop("graft").upper()],
            moving_average_for_momentum=True,
            decoupled_weight_decay=True,
            shape_interpretation=False,
            start_preconditioning_step=2,
            preconditioning_compute_steps=5 if has_embeddings(model) else 2,
            block_size=128,
            **settings,
        )
    ]


def _schedule_free(model: nn.Module, values: Values, steps: int, warm_up: int) -> list[Optimizer]:
    settings = _with_betas(values)
    settings["warmup_steps"] = max(warm_up, round(settings.pop("warm_up") * steps))
    return [pytorch_optimizer.ScheduleFreeAdamW(decayed(model.parameters()), **settings)]


def _with_betas(values: Values) -> dict[str, Any]:
    rest = {name: value for name, value in values.items() if name not in ("beta1", "beta2")}
    return {**rest, "betas": (float(values["beta1"]), float(values["beta2"]))}


def _space(name: str, domains: Mapping[str, Domain], *first_trials: Values) -> SearchSpace:
    parameters = tuple(Parameter(name=parameter, domain=domain) for parameter, domain in domains.items())
    return SearchSpace(name=name, parameters=parameters, first_trials=first_trials)


_TORCH: Final = f"torch {version('torch')}"
_PEERS: Final = f"pytorch-optimizer {version('pytorch-optimizer')}"
_MEMORY: Final = Choice(values=(0.9, 0.95, 0.99))


def _shampoo_point(lr: float, beta1: float, graft: str, exponent: int, decay: float = 0.0) -> Values:
    tuned = {"lr": lr, "beta1": beta1, "beta2": 0.95, "weight_decay": decay}
    return {**tuned, "graft": graft, "inverse_exponent_override": exponent}


WARPADAM: Final = Arm(
    name="warpadam",
    title="WarpAdam",
    space=get_preset("default"),
    optimizers=_warpadam,
    code=code_digest(Path(warpadam.__file__).parent),
)

ADAMW: Final = Arm(name="adamw", title="AdamW", space=get_preset("adamw"), optimizers=_adamw, code=_TORCH)

MUON: Final = Arm(
    name="muon",
    title="Muon",
    space=get_preset("muon"),
    optimizers=_muon,
    code=_TORCH,
    lrs=("lr", "adamw_lr"),
)

# The newcomer: Li et al. 2025 (arXiv 2510.05491), chosen among those that pytorch-optimizer ships. On three design
# tasks, at the best of three lrs, it was better than SPlus on two, and than MARS, Adan and DASH on all three. Its
# update has a root mean square of 0.2 as Muon's, so it tunes the same values.
NORMUON: Final = Arm(
    name="normuon",
    title="NorMuon",
    space=MUON.space,
    optimizers=_normuon,
    code=_PEERS,
    lrs=MUON.lrs,
)

SOAP: Final = Arm(
    name="soap",
    title="SOAP",
    space=get_preset("soap"),
    optimizers=_soap,
    code=_PEERS,
)

SHAMPOO: Final = Arm(
    name="shampoo",
    title="Shampoo",
    space=_space(
        "shampoo",
        {
            **ADAM,
            "beta2": _MEMORY,
            # The method that sets the norm of each update. SGD and AdaGrad also exist, but were far worse.
            "graft": Choice(values=("rmsprop", "sqrtn")),
            # 0 follows the paper: fourth roots for a matrix. 2 takes square roots on both sides.
            "inverse_exponent_override": Choice(values=(0, 2)),
        },
        _shampoo_point(0.01, 0.9, "sqrtn", 2),
        _shampoo_point(0.01, 0.9, "rmsprop", 0),
        _shampoo_point(0.03, 0.9, "sqrtn", 2),
        _shampoo_point(0.02, 0.8, "sqrtn", 2),
        _shampoo_point(0.02, 0.95, "sqrtn", 2),
        _shampoo_point(0.003, 0.9, "sqrtn", 2, 0.1),
        _shampoo_point(0.01, 0.9, "sqrtn", 2, 0.1),
        _shampoo_point(0.05, 0.9, "sqrtn", 2, 0.1),
    ),
    optimizers=_shampoo,
    code=f"{_PEERS}, every 2, transformer 5",
)

SCHEDULE_FREE: Final = Arm(
    name="schedule_free",
    title="ScheduleFree AdamW",
    space=_space(
        "schedule_free",
        {
            **ADAM,
            "lr": Float(low=1e-3, high=0.3, log=True),
            "beta1": Choice(values=(0.9, 0.95, 0.98)),
            "warm_up": Choice(values=(0.0, 0.05, 0.2)),
        },
        {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "warm_up": 0.05},
        {"lr": 0.03, "beta1": 0.95, "beta2": 0.99, "weight_decay": 0.0, "warm_up": 0.05},
        {"lr": 0.003, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "warm_up": 0.05},
        {"lr": 0.01, "beta1": 0.95, "beta2": 0.99, "weight_decay": 0.0, "warm_up": 0.2},
        {"lr": 0.03, "beta1": 0.98, "beta2": 0.99, "weight_decay": 0.0, "warm_up": 0.05},
        {"lr": 0.003, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "warm_up": 0.05},
        {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "warm_up": 0.05},
        {"lr": 0.1, "beta1": 0.95, "beta2": 0.99, "weight_decay": 0.1, "warm_up": 0.05},
    ),
    optimizers=_schedule_free,
    code=_PEERS,
    schedule="constant",
)

ARMS: Final = (WARPADAM, ADAMW, MUON, NORMUON, SOAP, SHAMPOO, SCHEDULE_FREE)
