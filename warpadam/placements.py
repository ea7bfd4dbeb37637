# Where P acts in one step of Adam, and the exact gradient of the next loss with respect to P that follows from it.
# Knows Adam's arithmetic and the interface of a structure, not how the factors are stepped: that is learners/.
"""Warp a gradient, map a direction back, and the one-step meta-gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from warpadam.adam import Moments, direction_and_slope, directions
from warpadam.config import Placement
from warpadam.structures.base import Distortion, Factors


class Warp(NamedTuple):
    """One P in its place.

    Attributes:
        placement: A value of :class:`~warpadam.config.Placement`.
        distortion: The structure of P.
        factors: The tensors of P.
    """

    placement: str
    distortion: Distortion
    factors: Mapping[str, Tensor]


def warp_gradient(warp: Warp, grad: Tensor) -> Tensor:
    """Return q, what the moments are fed with: P g, or g itself under ``post``.

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244), the distorted gradient.
    """
    return grad if warp.placement == Placement.POST else warp.distortion.apply(warp.factors, grad)


def unwarp_direction(warp: Warp, update: Tensor) -> Tensor:
    """Return what the parameters move along: u under ``pre``, P u under ``post``, P^T u under ``sandwich``.

    Source: ``sandwich`` is Adam in the space theta = P^T phi, the linear warp of Flennerhag et al. 2019
    (arXiv 1909.00025), section 2.
    """
    if warp.placement == Placement.PRE:
        return update
    if warp.placement == Placement.POST:
        return warp.distortion.apply(warp.factors, update)
    return warp.distortion.apply_transpose(warp.factors, update)


def meta_gradient(warp: Warp, moments: Moments, grad: Tensor, next_grad: Tensor, lr: float = 1.0) -> Factors:
    """Return the gradient of the next loss with respect to every factor of P, through one step.

    The step was theta' = theta - lr place(P, u), and ``next_grad`` is the gradient g' at theta'. The moments before the
    step are constants, and no dense P is formed.

    Args:
        warp: P of that step.
        moments: Those of this one tensor at that step, with its warped gradient folded in; in the layout.
        grad: The gradient g of that step, in the layout.
        next_grad: The gradient g' of the next step, in the layout.
        lr: Step size of that step. A constant factor, so a learner that normalises can leave it at 1.

    Cost: one or two applications of P and one or two pullbacks.
    """
    distortion, factors = warp.distortion, warp.factors
    if warp.placement == Placement.POST:
        (update,) = directions(moments)
        return distortion.pullback(factors, next_grad * -lr, update)
    update, slope = direction_and_slope(moments, warp_gradient(warp, grad), -lr)
    if warp.placement == Placement.PRE:
        return distortion.pullback(factors, slope.mul_(next_grad), grad)
    pulled = distortion.pullback(factors, update, next_grad)
    slope.mul_(distortion.apply(factors, next_grad))
    through_moments = distortion.pullback(factors, slope, grad)
    return {name: through_moments[name].add_(pulled[name]) for name in pulled}
