"""The torch half of Muon: one optimizer out of Muon and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from service.optimizers import Config


@final
class MuonWithAdamW(Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimizer with the groups and states of both.

    AdamW steps the groups that are added later; settings that they lack take those of AdamW.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._parts: tuple[Optimizer, ...] = (muon, adamw)
        self._muon_groups = len(muon.param_groups)
        super().__init__([*muon.param_groups, *adamw.param_groups], dict(adamw.defaults))

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step both; ``closure`` evaluates the loss again."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        count = self._muon_groups
        for part, groups in zip(self._parts, (self.param_groups[:count], self.param_groups[count:]), strict=True):
            part.param_groups, part.state = groups, self.state  # those that schedulers and checkpoints see
            part.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_parts": self._parts, "_muon_groups": self._muon_groups}


def build_muon(model: nn.Module, config: Config) -> Optimizer:
    """Return Muon for the matrices of a model and AdamW for its other parameters."""
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
