# P is given, or the identity, and left alone. A P that `rotation` made brings its learned scale along: with a fixed
# basis, momentum in the warped space and in the raw space are the same, so one rule serves every origin.
"""The learner that does not learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.adam import direction, update_moments
from warpadam.config import Placement
from warpadam.learners.base import Settings, State, UpdateRule, count_step, init_moments, moments_of
from warpadam.learners.rotation import RotationRule
from warpadam.learners.scale import init_scale, scale_direction
from warpadam.learners.whitening import WhiteningRule
from warpadam.placements import Warp, unwarp_direction, warp_gradient
from warpadam.structures import DiagonalDistortion, Factors, KroneckerDistortion


@final
@dataclass(frozen=True, slots=True)
class FrozenRule(UpdateRule):
    """Adam in the space of a fixed P; with P = I it is AdamW.

    Attributes:
        placement: A value of :class:`~warpadam.config.Placement`.
    """

    placement: str

    @override
    def init_state(self, dtype: torch.dtype, device: torch.device) -> State:
        return {**init_moments(self.distortion, dtype, device), **self.distortion.init_factors(dtype, device)}

    @override
    def init_carried(self, dtype: torch.dtype, device: torch.device) -> Factors:
        if self.placement == Placement.SANDWICH:
            if isinstance(self.distortion, KroneckerDistortion):
                return RotationRule(self.distortion).init_carried(dtype, device)
            if isinstance(self.distortion, DiagonalDistortion):
                factors = self.distortion.init_factors(dtype, device)
                return {**factors, **init_scale(self.distortion.layout, dtype, device)}
        if self.placement == Placement.PRE and isinstance(self.distortion, KroneckerDistortion):
            return WhiteningRule(self.distortion).init_carried(dtype, device)
        return self.distortion.init_factors(dtype, device)

    @override
    def update(self, state: State, grad: Tensor, settings: Settings) -> Tensor:
        moments = moments_of(state, count_step(state), settings)
        warp = Warp(self.placement, self.distortion, state)
        update_moments(moments, warp_gradient(warp, grad))
        return unwarp_direction(warp, scale_direction(state, direction(moments)))
