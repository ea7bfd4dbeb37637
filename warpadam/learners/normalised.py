# How learned tensors are stepped along a meta-gradient: Adam on them, so that the scale of the loss cancels, and a
# non-finite meta-gradient is skipped and counted. No host synchronisation: the decision stays on the device.
"""Adam on the factors of P."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

META_BETAS: Final = (0.9, 0.95)
"""Decay rates of the meta-gradient's moments. P has few updates and its gradient drifts: a short memory is best."""

META_EPS: Final = 1e-30
"""Only against 0/0: anything larger would make learning depend on the scale of the loss."""

SKIPPED: Final = "meta_skipped"
"""State entry that counts the meta-gradients that were not finite."""


def normalised_step(state: dict[str, Tensor], meta_gradients: Mapping[str, Tensor], p_lr: float) -> None:
    """Step the named tensors of ``state`` against their meta-gradients, in place, with Adam's normalisation.

    If any meta-gradient is not finite, or its square overflows, nothing moves and ``meta_skipped`` grows by one.

    Args:
        state: Holds the tensors, and gets the moments (``<name>_exp_avg``, ``<name>_exp_avg_sq``) and counters.
        meta_gradients: Gradient of the next loss for each tensor, same shapes.
        p_lr: Step size.
    """
    _init(state, meta_gradients)
    squares = {name: grad.square() for name, grad in meta_gradients.items()}
    finite = torch.stack([square.sum() for square in squares.values()]).isfinite().all()
    accepted = finite.to(state["meta_step"].dtype)
    state["meta_step"] += accepted
    state[SKIPPED] += 1 - accepted
    beta1, beta2 = META_BETAS
    count = state["meta_step"].clamp_min(1)  # with none accepted yet the averages are 0, and so is the step
    step_size = accepted * (1 - beta2**count).sqrt() / (1 - beta1**count) * p_lr
    for name, grad in meta_gradients.items():
        exp_avg, exp_avg_sq = state[f"{name}_exp_avg"], state[f"{name}_exp_avg_sq"]
        exp_avg.lerp_(torch.where(finite, grad, 0.0), (1 - beta1) * accepted)
        exp_avg_sq.lerp_(torch.where(finite, squares[name], 0.0), (1 - beta2) * accepted)
        state[name].sub_(exp_avg / exp_avg_sq.sqrt().add_(META_EPS) * step_size)


def _init(state: dict[str, Tensor], meta_gradients: Mapping[str, Tensor]) -> None:
    for name, grad in meta_gradients.items():
        if f"{name}_exp_avg" not in state:
            state[f"{name}_exp_avg"] = torch.zeros_like(grad)
            state[f"{name}_exp_avg_sq"] = torch.zeros_like(grad)
            for counter in ("meta_step", SKIPPED):
                state.setdefault(counter, torch.zeros((), dtype=grad.dtype, device=grad.device))
