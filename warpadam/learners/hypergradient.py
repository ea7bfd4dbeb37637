# P learns from the gradient of the next loss through the one step it took: the next gradient is all that is needed, no
# extra pass. The formula is in placements.py; this file decides when it is taken and steps the factors.
"""P learned by its exact one-step meta-gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.learners.base import (
    Settings,
    State,
    UpdateRule,
    count_step,
    init_moments,
    moments_of,
    warped_adam_step,
)
from warpadam.learners.normalised import normalised_step
from warpadam.placements import Warp, meta_gradient
from warpadam.structures import Factors

_FIRST_STEP: Final = 2
"""Adam's first direction is sign(q) whatever P is: its slope is rounding noise, which normalisation would blow up."""


@final
@dataclass(frozen=True, slots=True)
class HypergradientRule(UpdateRule):
    """Every ``meta_every`` steps, step the factors along the meta-gradient of the step before.

    Attributes:
        placement: A value of :class:`~warpadam.config.Placement`.

    State beside the moments and the factors: ``prev_grad``, only between a step that will be judged and the next.

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244); the one-step objective is that of Baydin et al. 2018
    (arXiv 1703.04782).
    """

    placement: str

    @override
    def init_state(self, dtype: torch.dtype, device: torch.device) -> State:
        return {**init_moments(self.distortion, dtype, device), **self.distortion.init_factors(dtype, device)}

    @override
    def init_carried(self, dtype: torch.dtype, device: torch.device) -> Factors:
        return self.distortion.init_factors(dtype, device)

    @override
    def update(self, state: State, grad: Tensor, settings: Settings) -> Tensor:
        step = count_step(state)
        warp = Warp(self.placement, self.distortion, state)
        prev_grad = state.pop("prev_grad", None)
        if prev_grad is not None:
            self._learn(warp, state, prev_grad, grad, step - 1, settings)
        if settings.p_lr > 0 and step >= _FIRST_STEP and step % settings.meta_every == 0:
            state["prev_grad"] = grad.clone()
        return warped_adam_step(warp, moments_of(state, step, settings), grad)

    def _learn(
        self, warp: Warp, state: State, prev_grad: Tensor, grad: Tensor, prev_step: int, settings: Settings
    ) -> None:
        moments = moments_of(state, prev_step, settings)
        pulled = meta_gradient(warp, moments, prev_grad, grad)
        normalised_step(state, pulled, settings.p_lr, stack_dims=grad.ndim - len(self.distortion.layout))
        self.distortion.settle({name: state[name] for name in pulled}, settings.p_decay)
