# P is given, or the identity, and left alone. A P that `rotation` made brings its learned scale along: with a fixed
# basis, momentum in the warped space and in the raw space are the same, so one rule serves every origin.
"""The learner that does not learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.adam import directions, update_moments
from warpadam.config import Placement
from warpadam.learners.base import Part, Settings, State, UpdateRule, count_step, init_moments, moments_of
from warpadam.learners.rotation import RotationRule
from warpadam.learners.scale import LOG_SCALE, scale_directions
from warpadam.learners.whitening import WhiteningRule
from warpadam.placements import Warp, unwarp_direction, warp_gradient
from warpadam.structures import DiagonalDistortion, Distortion, Factors, SidedDistortion


@final
@dataclass(frozen=True, slots=True)
class FrozenRule(UpdateRule):
    """Adam in the space of a fixed P; with P = I it is AdamW.

    Attributes:
        placement: A value of :class:`~warpadam.config.Placement`.
    """

    placement: str

    @override
    def init_state(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> State:
        return {**init_moments(distortion, dtype, device), **distortion.init_factors(dtype, device)}

    @override
    def init_carried(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> Factors:
        if isinstance(distortion, SidedDistortion):
            if self.placement == Placement.SANDWICH:
                return RotationRule().init_carried(distortion, dtype, device)
            if self.placement == Placement.PRE:
                return WhiteningRule().init_carried(distortion, dtype, device)
        factors = distortion.init_factors(dtype, device)
        if self.placement == Placement.SANDWICH and isinstance(distortion, DiagonalDistortion):
            factors[LOG_SCALE] = torch.zeros(distortion.scale_shape, dtype=dtype, device=device)
        return factors

    @override
    def update(self, parts: Sequence[Part], settings: Settings) -> list[Tensor]:
        moments = moments_of(parts, count_step(parts), settings)
        warps = [Warp(self.placement, part.distortion, part.state) for part in parts]
        update_moments(moments, [warp_gradient(warp, part.grad) for warp, part in zip(warps, parts, strict=True)])
        updates = directions(moments)
        scale_directions(parts, updates)
        return [unwarp_direction(warp, update) for warp, update in zip(warps, updates, strict=True)]
