"""The learned positive scale S = exp(s) on a direction, shared by the rules that have one.

Its shape says what it scales: one s for each row and one for each column, one for each element, or one for the whole
tensor. Adam would divide out a scale before its moments, so S acts after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from warpadam.learners.base import Part, State, StepSettings, are_kept, init_kept, keep
from warpadam.learners.normalised import init_normalised, normalised_step
from warpadam.structures import Distortion, Factors

LOG_SCALE: Final = "log_scale"
"""State entry: s of the rows, then s of the columns, in one tensor, so that one small step moves both."""

TENSOR_SCALE_SHAPE: Final = (1,)
"""Shape of the log scale if there is one s for the whole tensor."""

MAX_LOG_SCALE: Final = 2.0
"""Trust range of s: a step is at most e^2 = 7.4 times longer or shorter than Adam's."""

_PREV_UPDATE: Final = "prev_update"
"""State entry: the S u that the next gradient will judge."""


def init_sides_and_scale(
    distortion: Distortion, scale_shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Factors:
    """Return what a P with sides and a scale carries to another run: identity factors, zero covariances and s = 0."""
    return {
        **distortion.init_sides(dtype, device),
        LOG_SCALE: torch.zeros(scale_shape, dtype=dtype, device=device),
    }


def init_learned_scale(
    distortion: Distortion, scale_shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> State:
    """Return the entries of a scale that learns: s = 0, its moments, and the update that is judged next."""
    scale = {LOG_SCALE: torch.zeros(scale_shape, dtype=dtype, device=device)}
    return {**scale, **init_normalised(scale), **init_kept(_PREV_UPDATE, distortion, dtype, device)}


def scaled_direction(part: Part, update: Tensor) -> Tensor:
    """Return S u, in the memory of u; u itself if the state has no scale."""
    log_scale = part.state.get(LOG_SCALE)
    return update if log_scale is None else update.mul_(step_scale(log_scale, update))


def learn_scale(part: Part, next_grad: Tensor, steps: Sequence[int], settings: StepSettings) -> None:
    """Step s against its meta-gradient -<g', S u>, normalised, in place, if there is an update to judge.

    s stays in the trust range.

    Args:
        part: Its state holds the scale and the update that :func:`remember` kept.
        next_grad: g', in the space in which the scale acted.
        steps: The number of this step, for each parameter.
        settings: Step size of s, and its pull towards 0.
    """
    kept = are_kept(part, steps)
    if not any(kept):
        return
    scale = part.state[LOG_SCALE]
    judged = part.each(kept, scale.ndim - part.stack_dims)
    pulled = _pulled(next_grad, part.state[_PREV_UPDATE], scale)
    if isinstance(judged, Tensor):
        pulled = torch.where(judged > 0, pulled, 0.0)  # teaches nothing
    normalised_step(part.state, {LOG_SCALE: pulled}, settings.p_lr, part.stack_dims)
    if settings.p_decay:
        scale.mul_(1 - settings.p_decay * judged)
    scale.clamp_(-MAX_LOG_SCALE, MAX_LOG_SCALE)


def remember(part: Part, update: Tensor) -> None:
    """Keep the S u of this step until the next gradient judges it."""
    keep(part, _PREV_UPDATE, update)


def reorder_scale(state: State, distortion: Distortion, side: str, order: Tensor) -> None:
    """Permute the scale of one side, and the moments it is learned with, if ``state`` has a scale."""
    for name in (LOG_SCALE, f"{LOG_SCALE}_exp_avg", f"{LOG_SCALE}_exp_avg_sq"):
        if name in state:
            state[name].copy_(distortion.reordered(state[name], side, order))


def step_scale(log_scale: Tensor, update: Tensor) -> Tensor:
    """Return S = exp(s), limited to the trust range and broadcastable to an update in the layout."""
    if update.ndim > log_scale.ndim:
        rows = update.shape[-2]
        one = log_scale.shape[-1] == 1
        log_scale = log_scale[..., None] if one else log_scale[..., :rows, None] + log_scale[..., None, rows:]
    return log_scale.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp_()


def _pulled(next_grad: Tensor, update: Tensor, log_scale: Tensor) -> Tensor:
    """Return the meta-gradient of s, the negative sums of the elements of <g', S u>."""
    if next_grad.ndim == log_scale.ndim:
        return (next_grad * update).neg_()
    if log_scale.shape[-1] == 1:
        agreement: Tensor = torch.linalg.vecdot(next_grad.flatten(-2), update.flatten(-2)).unsqueeze(-1)
        return agreement.neg_()
    products = next_grad * update
    return torch.cat((products.sum(-1), products.sum(-2)), -1).neg_()
