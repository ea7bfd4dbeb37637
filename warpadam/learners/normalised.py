# How learned tensors are stepped along a meta-gradient: Adam on them, so that the scale of the loss cancels, and a
# non-finite meta-gradient is skipped and counted. No host synchronisation: the decision stays on the device.
"""Adam on the factors of P."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

META_BETAS: Final = (0.9, 0.95)
"""Decay rates of the meta-gradient's moments. P has few updates and its gradient drifts: a short memory is best."""

SKIPPED: Final = "meta_skipped"
"""State entry that counts the meta-gradients that were not finite."""


def normalised_step(
    state: dict[str, Tensor], meta_gradients: Mapping[str, Tensor], p_lr: float, stack_dims: int = 0
) -> None:
    """Step the named tensors of ``state`` against their meta-gradients, in place, with Adam's normalisation.

    If any meta-gradient is not finite, or its square overflows, nothing moves and ``meta_skipped`` grows by one.

    Args:
        state: Holds the tensors, and gets the moments (``<name>_exp_avg``, ``<name>_exp_avg_sq``) and counters.
        meta_gradients: Gradient of the next loss for each tensor, same shapes.
        p_lr: Step size.
        stack_dims: Leading dimensions of every tensor that count parameters; each is accepted or skipped by itself.
    """
    _init(state, meta_gradients, stack_dims)
    squares = {name: grad.square() for name, grad in meta_gradients.items()}
    first, *others = (square.flatten(stack_dims).sum(-1) for square in squares.values())
    finite = sum(others, first) < math.inf  # False for NaN as well, and a third of the calls of isfinite
    accepted = finite.to(first.dtype)
    state["meta_step"] += accepted
    state[SKIPPED] += 1 - accepted
    beta1, beta2 = META_BETAS
    count = state["meta_step"].clamp_min(1)  # with none accepted yet the averages are 0, and so is the step
    step_size = accepted * (1 - beta2**count).sqrt() / (1 - beta1**count) * p_lr
    for name, grad in meta_gradients.items():
        each = (*finite.shape, *([1] * (grad.ndim - stack_dims)))
        kept, weight, size = (
            (value.view(each) for value in (finite, accepted, step_size))
            if stack_dims
            else (finite, accepted, step_size)
        )
        exp_avg, exp_avg_sq = state[f"{name}_exp_avg"], state[f"{name}_exp_avg_sq"]
        exp_avg.lerp_(torch.where(kept, grad, 0.0), (1 - beta1) * weight)
        exp_avg_sq.lerp_(torch.where(kept, squares[name], 0.0), (1 - beta2) * weight)
        smallest = (
            torch.finfo(grad.dtype).tiny ** 0.5
        )  # below it a square is rounded to nothing, and the ratio is noise
        state[name].addcdiv_(exp_avg * size, exp_avg_sq.sqrt().add_(smallest), value=-1.0)


def _init(state: dict[str, Tensor], meta_gradients: Mapping[str, Tensor], stack_dims: int) -> None:
    for name, grad in meta_gradients.items():
        if f"{name}_exp_avg" not in state:
            state[f"{name}_exp_avg"] = torch.zeros_like(grad)
            state[f"{name}_exp_avg_sq"] = torch.zeros_like(grad)
            for counter in ("meta_step", SKIPPED):
                state.setdefault(counter, grad.new_zeros(grad.shape[:stack_dims]))
