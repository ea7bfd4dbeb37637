# Adam's arithmetic as pure functions over tensors: moments, bias-corrected direction, and the slope of that
# direction with respect to the gradient it was fed. Must not know about P, parameters or groups: where P goes is in
# placements.py, who calls it is in learners/.
"""Moments, direction and its derivative."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Adam's two running means of one tensor, after ``step`` updates.

    Attributes:
        exp_avg: First moment, any shape.
        exp_avg_sq: Second moment, same shape.
        step: Number of updates made so far, at least 1 when a direction is asked for.
        beta1: Decay rate of the first moment.
        beta2: Decay rate of the second moment.
        eps: Added to the root of the second moment.
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int
    beta1: float
    beta2: float
    eps: float


def update_moments(moments: Moments, value: Tensor) -> None:
    """Fold ``value`` into both running means, in place.

    Args:
        moments: The means before the step; their tensors are overwritten.
        value: What Adam is fed with, same shape as the moments.
    """
    moments.exp_avg.lerp_(value, 1 - moments.beta1)
    moments.exp_avg_sq.mul_(moments.beta2).addcmul_(value, value, value=1 - moments.beta2)


def direction(moments: Moments) -> Tensor:
    """Return u = m^ / (sqrt(v^) + eps), what Adam would multiply by -lr.

    Source: Kingma & Ba 2015, algorithm 1.

    >>> grad = torch.tensor([4.0, -2.0])
    >>> direction(Moments(grad / 2, grad**2 / 2, step=1, beta1=0.5, beta2=0.5, eps=0.0))
    tensor([ 1., -1.])
    """
    exp_avg = moments.exp_avg / (1 - moments.beta1**moments.step)
    return exp_avg.div_(_denominator(moments))


def direction_slope(moments: Moments, value: Tensor) -> Tensor:
    """Return D = du/dq, elementwise, at the last ``value`` q that went into the moments.

    The moments before that value are constants. Where sqrt(v^) <= eps the slope is set to 0: an input that was dead
    so far would otherwise meet 1/eps the moment it revives.

    Args:
        moments: The means after ``value`` was folded in.
        value: The q of that step, same shape.
    """
    first = (1 - moments.beta1) / (1 - moments.beta1**moments.step)
    second = (1 - moments.beta2) / (1 - moments.beta2**moments.step)
    root = moments.exp_avg_sq.sqrt().div_(math.sqrt(1 - moments.beta2**moments.step))
    alive = root > moments.eps
    root = torch.where(alive, root, 1.0)
    denominator = root + moments.eps
    exp_avg = moments.exp_avg / (1 - moments.beta1**moments.step)
    slope = first / denominator - exp_avg * value * second / (root * denominator.square())
    return torch.where(alive, slope, 0.0)


def _denominator(moments: Moments) -> Tensor:
    root = moments.exp_avg_sq.sqrt().div_(math.sqrt(1 - moments.beta2**moments.step)).add_(moments.eps)
    if moments.eps == 0:
        root.masked_fill_(root == 0, 1.0)  # 0/0: a dead input does not move
    return root
