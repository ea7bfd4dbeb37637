"""The learner ``hypergradient``: P learns from the exact gradient of the next loss through one step.

The next gradient tells whether the last step was good, so no extra pass through the model is needed. ``placements.py``
has the formula. This file decides when it is used and steps the factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.adam import direction, update_moments
from warpadam.learners.base import (
    Part,
    State,
    StepSettings,
    UpdateRule,
    are_kept,
    count_steps,
    init_kept,
    init_moments,
    keep,
    moments_of,
)
from warpadam.learners.normalised import init_normalised, normalised_step
from warpadam.placements import PlacedDistortion, meta_gradient, unwarp_direction, warp_gradient
from warpadam.structures import Distortion, Factors

_FIRST_STEP: Final = 2
"""Adam's first direction is sign(q) for every P. Its slope is rounding noise, which normalisation would magnify."""

_PREV_GRAD: Final = "prev_grad"


@final
@dataclass(frozen=True, slots=True)
class HypergradientRule(UpdateRule):
    """Every ``meta_every`` steps, step the factors against the meta-gradient of the step before.

    The state holds the moments, the factors and, with ``p_lr`` > 0, the gradient of the last step that is judged.

    Attributes:
        placement: A value of :class:`~warpadam.config.Placement`.

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244). The one-step objective is that of Baydin et al. 2018
    (arXiv 1703.04782).
    """

    placement: str

    @override
    def init_state(self, distortion: Distortion, dtype: torch.dtype, device: torch.device, *, learns: bool) -> State:
        factors = distortion.init_factors(dtype, device)
        state = {**init_moments(distortion, dtype, device), **factors}
        if not learns:
            return state
        return {**state, **init_normalised(factors), **init_kept(_PREV_GRAD, distortion, dtype, device)}

    @override
    def init_carried(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> Factors:
        return distortion.init_factors(dtype, device)

    @override
    def update(self, part: Part, settings: StepSettings) -> Tensor:
        steps = count_steps(part)
        step = steps[0]
        placed = PlacedDistortion(self.placement, part.distortion, part.state)
        if settings.p_lr > 0:
            if are_kept(part, steps)[0]:
                _learn(placed, part, step, settings)
            if settings.is_judged and step >= _FIRST_STEP and step % settings.meta_every == 0:
                keep(part, _PREV_GRAD, part.grad)
        moments = moments_of(part, step, settings)
        update_moments(moments, warp_gradient(placed, part.grad))
        return unwarp_direction(placed, direction(moments))


def _learn(placed: PlacedDistortion, part: Part, step: int, settings: StepSettings) -> None:
    moments = moments_of(part, step - 1, settings)
    pulled = meta_gradient(placed, moments, part.state[_PREV_GRAD], part.grad)
    normalised_step(part.state, pulled, settings.p_lr, part.stack_dims)
    part.distortion.settle({name: part.state[name] for name in pulled}, settings.p_decay)
