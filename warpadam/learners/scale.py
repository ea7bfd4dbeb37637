# The learned positive scale S = exp(s) on a direction, one s for each row and one for each column, or one s for a whole
# matrix. Adam divides out a scale before its moments, so S acts after them only. Shared by the rules that have one;
# knows no P.
"""A learned step size for each row and column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from warpadam.learners.normalised import normalised_step

LOG_SCALE: Final = "log_scale"
"""State entry: s of the rows, then s of the columns; in one tensor, so that one small step moves both."""

MAX_LOG_SCALE: Final = 2.0
"""Trust range of s: a step is at most e^2 = 7.4 times longer or shorter than Adam's."""


def init_scale(layout: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Return s = 0: ``log_scale`` (rows + columns), or (elements) for a vector."""
    return {LOG_SCALE: torch.zeros(sum(layout), dtype=dtype, device=device)}


def scale_direction(state: Mapping[str, Tensor], update: Tensor) -> Tensor:
    """Return S u, or u itself if ``state`` has no scale.

    >>> scale_direction({LOG_SCALE: torch.tensor([0.0, 9.0])}, torch.ones(2)).log()
    tensor([0., 2.])
    """
    if LOG_SCALE not in state:
        return update
    log_scale = state[LOG_SCALE]
    if update.ndim > log_scale.ndim:
        rows = update.shape[-2]
        one = log_scale.shape[-1] == 1
        log_scale = log_scale[..., None] if one else log_scale[..., :rows, None] + log_scale[..., None, rows:]
    return update * log_scale.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp_()


def learn_scale(state: dict[str, Tensor], next_grad: Tensor, scaled: Tensor, p_lr: float, p_decay: float) -> None:
    """Step s along its meta-gradient -<g', S u>, normalised, and keep it in the trust range; in place.

    Args:
        state: Holds the scale.
        next_grad: g' in the space in which the scale acted.
        scaled: The S u that was applied, in the same space.
        p_lr: Step size of s.
        p_decay: Pull of s towards 0.
    """
    pulled = next_grad * scaled
    if pulled.ndim > state[LOG_SCALE].ndim:
        one = state[LOG_SCALE].shape[-1] == 1
        pulled = pulled.flatten(-2).sum(-1, keepdim=True) if one else torch.cat((pulled.sum(-1), pulled.sum(-2)), -1)
    normalised_step(state, {LOG_SCALE: pulled.neg_()}, p_lr, stack_dims=pulled.ndim - 1)
    if p_decay:
        state[LOG_SCALE].mul_(1 - p_decay)
    state[LOG_SCALE].clamp_(-MAX_LOG_SCALE, MAX_LOG_SCALE)


def reorder_scale(state: dict[str, Tensor], layout: tuple[int, ...], axis: int, order: Tensor) -> None:
    """Permute the scale of one axis and the moments it is learned with.

    Args:
        state: Holds the scale, or not.
        layout: (rows, columns).
        axis: 0 for rows, 1 for columns.
        order: For each new position the old one.
    """
    for name in (LOG_SCALE, f"{LOG_SCALE}_exp_avg", f"{LOG_SCALE}_exp_avg_sq"):
        if name in state:
            parts = list(torch.split(state[name], list(layout), -1))
            parts[axis] = parts[axis].gather(-1, order)
            state[name] = torch.cat(parts, -1)
