"""The learner ``frozen``: Adam with a P that does not change.

P is the identity, or one that is given with ``set_distortion``. A P made by ``rotation`` or ``whitening`` may bring its
covariances and its learned scale along. The covariances are kept and not used. In a fixed basis, momentum in the warped
space equals momentum in the raw space, so this one rule serves a P of any origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.adam import direction, update_moments
from warpadam.config import Placement
from warpadam.learners.base import Part, State, StepSettings, UpdateRule, count_steps, init_moments, moments_of
from warpadam.learners.scale import TENSOR_SCALE_SHAPE, init_sides_and_scale, scaled_direction
from warpadam.placements import PlacedDistortion, unwarp_direction, warp_gradient
from warpadam.structures import DiagonalDistortion, Distortion, Factors


@final
@dataclass(frozen=True, slots=True)
class FrozenRule(UpdateRule):
    """Adam in the space of a fixed P. With P = I it is AdamW.

    Attributes:
        placement: A value of :class:`~warpadam.config.Placement`.
    """

    joins_steps = True

    placement: str

    @override
    def init_state(self, distortion: Distortion, dtype: torch.dtype, device: torch.device, *, learns: bool) -> State:
        return {**init_moments(distortion, dtype, device), **distortion.init_factors(dtype, device)}

    @override
    def init_carried(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> Factors:
        scale_shape = self._scale_shape(distortion)
        if scale_shape is None:
            return distortion.init_factors(dtype, device)
        return init_sides_and_scale(distortion, scale_shape, dtype, device)

    def _scale_shape(self, distortion: Distortion) -> tuple[int, ...] | None:
        """Return the shape of the scale that a learned P of this structure and placement may bring; None for none."""
        if self.placement == Placement.SANDWICH and (distortion.sides or isinstance(distortion, DiagonalDistortion)):
            return distortion.scale_shape
        return TENSOR_SCALE_SHAPE if self.placement == Placement.PRE and distortion.sides else None

    @override
    def update(self, part: Part, settings: StepSettings) -> Tensor:
        step = part.each(count_steps(part), len(part.distortion.layout))
        moments = moments_of(part, step, settings)
        placed = PlacedDistortion(self.placement, part.distortion, part.state)
        update_moments(moments, warp_gradient(placed, part.grad))
        return unwarp_direction(placed, scaled_direction(part, direction(moments)))
