# From an arm's optimizer to a torch optimizer: the only file that says which class a name stands for. Configs are what
# ArmPlan.config returned; what the names tune is in search_spaces/presets.py.
"""Optimizers of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from warpadam import WarpAdam, WarpAdamConfig

Config = Mapping[str, Any]


@final
class MuonWithAdamW(Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimizer: it has all groups and all states.

    Args:
        muon: Steps its own parameters.
        adamw: Steps the others.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._parts: tuple[Optimizer, ...] = (muon, adamw)
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    @override
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step both.

        Args:
            closure: Evaluates the loss again.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict()`` returned."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Make groups and states of the parts the ones that schedulers and checkpoints see."""
        start = 0
        for part in self._parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[start : start + count]
            part.state = self.state
            start += count


def build_optimizer(name: str, model: nn.Module, config: Config) -> Optimizer:
    """Return the optimizer of a run.

    Args:
        name: Name of the optimizer, as in ``service.planning.arms.CONFIGS``.
        model: Its parameters are optimized.
        config: What the arm's ``ArmPlan.config`` returned.

    Raises:
        ValueError: No optimizer has this name.
    """
    if name not in BUILDERS:
        raise ValueError(f"optimizer: got {name!r}, expected one of {', '.join(BUILDERS)}")
    return BUILDERS[name](model, config)


def _warpadam(model: nn.Module, config: Config) -> Optimizer:
    return WarpAdam.from_config(model.named_parameters(), WarpAdamConfig.from_dict(config))


def _adamw(model: nn.Module, config: Config) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), **{**config, "betas": tuple(config["betas"])})


def _muon(model: nn.Module, config: Config) -> Optimizer:
    matrices = [param for param in model.parameters() if param.ndim == 2]
    others = [param for param in model.parameters() if param.ndim != 2]
    if config["output_layer"] == "adamw" and len(matrices) > 1:
        others.append(matrices.pop())
    decay = config["weight_decay"]
    return MuonWithAdamW(
        torch.optim.Muon(
            [{"params": matrices}],  # a group may be empty: a user's model may have no vectors, or no matrices
            lr=config["lr"],
            momentum=config["momentum"],
            weight_decay=decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW([{"params": others}], lr=config["adamw_lr"], betas=(0.9, 0.95), weight_decay=decay),
    )


def _soap(model: nn.Module, config: Config) -> Optimizer:
    import pytorch_optimizer  # of the extra `soap`; a submission that names soap without it was refused

    return pytorch_optimizer.SOAP(model.parameters(), **{**config, "betas": tuple(config["betas"])})


def _sgd(model: nn.Module, config: Config) -> Optimizer:
    return torch.optim.SGD(model.parameters(), **config, nesterov=config["momentum"] > 0)


def _random_p(model: nn.Module, config: Config) -> Optimizer:
    """WarpAdam between bases drawn at random: a rotation that knows nothing of the gradients."""
    optimizer = WarpAdam.from_config(model.named_parameters(), WarpAdamConfig.from_dict(config))
    for param in model.parameters():
        bases = {name: _orthogonal(tensor) for name, tensor in optimizer.get_distortion(param).items()}
        optimizer.set_distortion(param, bases)
    return optimizer


def _orthogonal(like: Tensor) -> Tensor:
    """Return a random orthogonal matrix of the shape of ``like``; what is no square matrix stays."""
    if like.ndim < 2 or like.shape[-1] != like.shape[-2]:
        return like
    return nn.init.orthogonal_(torch.empty_like(like))


BUILDERS: Final[Mapping[str, Callable[[nn.Module, Config], Optimizer]]] = {
    "warpadam": _warpadam,
    "adamw": _adamw,
    "muon": _muon,
    "soap": _soap,
    "sgd": _sgd,
    "random_p": _random_p,
}
"""Name -> what makes the optimizer."""
