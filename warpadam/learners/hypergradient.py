"""The learner ``hypergradient``: P learns from the exact gradient of the next loss through one step.

The next gradient tells whether the last step was good, so no extra pass through the model is needed. ``placements.py``
has the formula. This file decides when it is used and steps the factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.adam import directions, update_moments
from warpadam.learners.base import Part, State, StepSettings, UpdateRule, count_step, init_moments, moments_of
from warpadam.learners.normalised import normalised_step
from warpadam.placements import PlacedDistortion, meta_gradient, unwarp_direction, warp_gradient
from warpadam.structures import Distortion, Factors

_FIRST_STEP: Final = 2
"""Adam's first direction is sign(q) for every P. Its slope is rounding noise, which normalisation would magnify."""

_PREV_GRAD: Final = "prev_grad"


@final
@dataclass(frozen=True, slots=True)
class HypergradientRule(UpdateRule):
    """Every ``meta_every`` steps, step the factors against the meta-gradient of the step before.

    The state holds the moments, the factors and, between a step that will be judged and the next one, ``prev_grad``.

    Attributes:
        placement: A value of :class:`~warpadam.config.Placement`.

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244). The one-step objective is that of Baydin et al. 2018
    (arXiv 1703.04782).
    """

    placement: str

    @override
    def init_state(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> State:
        return {**init_moments(distortion, dtype, device), **distortion.init_factors(dtype, device)}

    @override
    def init_carried(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> Factors:
        return distortion.init_factors(dtype, device)

    @override
    def update(self, parts: Sequence[Part], settings: StepSettings) -> list[Tensor]:
        step = count_step(parts)
        judged = [part for part in parts if _PREV_GRAD in part.state]
        if judged:
            self._learn(judged, step - 1, settings)
        if settings.p_lr > 0 and step >= _FIRST_STEP and step % settings.meta_every == 0:
            for part in parts:
                part.state[_PREV_GRAD] = part.grad.clone()
        moments = moments_of(parts, step, settings)
        placed = [self._placed(part) for part in parts]
        update_moments(moments, [warp_gradient(p, part.grad) for p, part in zip(placed, parts, strict=True)])
        return [unwarp_direction(*pair) for pair in zip(placed, directions(moments), strict=True)]

    def _placed(self, part: Part) -> PlacedDistortion:
        return PlacedDistortion(self.placement, part.distortion, part.state)

    def _learn(self, parts: Sequence[Part], prev_step: int, settings: StepSettings) -> None:
        pulled = []
        for part in parts:
            moments = moments_of([part], prev_step, settings)
            pulled.append(meta_gradient(self._placed(part), moments, part.state.pop(_PREV_GRAD), part.grad))
        normalised_step([part.state for part in parts], pulled, settings.p_lr, [part.stack_dims for part in parts])
        for part, factors in zip(parts, pulled, strict=True):
            part.distortion.settle({name: part.state[name] for name in factors}, settings.p_decay)
