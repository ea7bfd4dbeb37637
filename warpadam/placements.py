"""Where P acts in a step of Adam, and the exact gradient of the next loss with respect to P.

With u(.) for Adam's direction, a step moves the parameters along

    pre        u(P g)
    post       P u(g)
    sandwich   P^T u(P g)

The gradient of the next loss through that step, the meta-gradient, needs the next gradient and no other pass. The files
of ``learners/`` decide when it is taken and how the factors move along it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from warpadam.adam import Moments, direction, direction_and_slope
from warpadam.config import Placement
from warpadam.structures.base import Distortion, Factors


class PlacedDistortion(NamedTuple):
    """The P of one tensor in one step: its structure, its factors, and where it acts.

    Attributes:
        placement: A value of :class:`~warpadam.config.Placement`.
        distortion: The structure of P.
        factors: The tensors of P.
    """

    placement: str
    distortion: Distortion
    factors: Mapping[str, Tensor]


def warp_gradient(placed: PlacedDistortion, grad: Tensor) -> Tensor:
    """Return q, which goes into the moments: P g, or g itself under ``post``.

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244), the distorted gradient.
    """
    return grad if placed.placement == Placement.POST else placed.distortion.apply(placed.factors, grad)


def unwarp_direction(placed: PlacedDistortion, update: Tensor) -> Tensor:
    """Return the direction in which the parameters move: u under ``pre``, P u under ``post``, P^T u under ``sandwich``.

    Source: ``sandwich`` is Adam in the space theta = P^T phi, the linear warp of Flennerhag et al. 2019
    (arXiv 1909.00025), section 2.
    """
    if placed.placement == Placement.PRE:
        return update
    if placed.placement == Placement.POST:
        return placed.distortion.apply(placed.factors, update)
    return placed.distortion.apply_transpose(placed.factors, update)


def meta_gradient(
    placed: PlacedDistortion, moments: Moments, grad: Tensor, next_grad: Tensor, lr: float = 1.0
) -> Factors:
    """Return the gradient of the next loss with respect to every factor of P, through one step.

    The step was theta' = theta - lr d, where d is the direction of the placement, and ``next_grad`` is the gradient g'
    at theta'. The moments before the step count as constants. No dense P is formed.

    Args:
        placed: P of that step.
        moments: The moments of this tensor at that step, after its warped gradient was folded in; in the layout.
        grad: The gradient g of that step, in the layout.
        next_grad: The gradient g' of the next step, in the layout.
        lr: Step size of that step. It is a constant factor, so a learner that normalises can leave it at 1 if it is
            positive.

    Cost: one or two applications of P and one or two pullbacks.
    """
    distortion, factors = placed.distortion, placed.factors
    if placed.placement == Placement.POST:
        return distortion.pullback(factors, next_grad * -lr, direction(moments))
    update, slope = direction_and_slope(moments, warp_gradient(placed, grad), -lr)
    if placed.placement == Placement.PRE:
        return distortion.pullback(factors, slope.mul_(next_grad), grad)
    pulled = distortion.pullback(factors, update, next_grad)
    slope.mul_(distortion.apply(factors, next_grad))
    through_moments = distortion.pullback(factors, slope, grad)
    return {name: through_moments[name].add_(pulled[name]) for name in pulled}
