"""The learned positive scale S = exp(s) on a direction, shared by the rules that have one.

Its shape says what it scales: one s for each row and one for each column, one for each element, or one for the whole
tensor. Adam would divide out a scale before its moments, so S acts after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from warpadam.learners.base import Part, State, StepSettings, init_kept, is_kept, keep
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


def scale_directions(parts: Sequence[Part], updates: Sequence[Tensor]) -> None:
    """Multiply every u by S, in place. Where a state has no scale, u stays as it is."""
    for part, update in zip(parts, updates, strict=True):
        if LOG_SCALE in part.state:
            update.mul_(step_scale(part.state[LOG_SCALE], update))


def learn_scales(
    parts: Sequence[Part], next_grads: Sequence[Tensor], steps: Sequence[int], settings: StepSettings
) -> None:
    """Step every s that has an update to judge against its meta-gradient -<g', S u>, normalised, in place.

    s stays in the trust range.

    Args:
        parts: Their states hold the scales and the updates that :func:`remember` kept.
        next_grads: g' of every part, in the space in which the scale acted.
        steps: The number of this step for every part.
        settings: Step size of s, and its pull towards 0.
    """
    judged: list[Part] = []
    pulled = []
    for part, grad, step in zip(parts, next_grads, steps, strict=True):
        if is_kept(part, step):
            judged.append(part)
            pulled.append({LOG_SCALE: _pulled(grad * part.state[_PREV_UPDATE], part.state[LOG_SCALE])})
    if not judged:
        return
    scales = [part.state[LOG_SCALE] for part in judged]
    normalised_step([part.state for part in judged], pulled, settings.p_lr, [part.stack_dims for part in judged])
    if settings.p_decay:
        torch._foreach_mul_(scales, 1 - settings.p_decay)
    torch._foreach_clamp_min_(scales, -MAX_LOG_SCALE)
    torch._foreach_clamp_max_(scales, MAX_LOG_SCALE)


def remember(parts: Sequence[Part], updates: Sequence[Tensor], steps: Sequence[int]) -> None:
    """Keep every S u of this step until the next gradient judges it."""
    keep(parts, _PREV_UPDATE, updates, steps)


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


def _pulled(agreement: Tensor, log_scale: Tensor) -> Tensor:
    """Return the meta-gradient of s from the elements of <g', S u>; overwrites them."""
    if agreement.ndim > log_scale.ndim:
        if log_scale.shape[-1] == 1:
            agreement = agreement.flatten(-2).sum(-1, keepdim=True)
        else:
            agreement = torch.cat((agreement.sum(-1), agreement.sum(-2)), -1)
    return agreement.neg_()
