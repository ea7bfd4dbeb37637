"""Adam's arithmetic: moments, direction, and the slope of the direction with respect to the last input.

These are pure functions. They do not know P, parameters or groups. ``placements.py`` combines them with P, and the
rules in ``learners/`` call them.
"""

from __future__ import annotations

import math
from typing import NamedTuple, overload

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Adam's two running means of a tensor.

    Attributes:
        exp_avg: First moment, any shape.
        exp_avg_sq: Second moment, same shape.
        step: Number of updates so far, at least 1 for a direction. A tensor if the tensors of several parameters are
            stacked and their numbers differ; it broadcasts to the moments.
        beta1: Decay rate of the first moment.
        beta2: Decay rate of the second moment.
        eps: Added to the root of the second moment.
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int | Tensor
    beta1: float
    beta2: float
    eps: float


def update_moments(moments: Moments, value: Tensor) -> None:
    """Fold ``value`` into both running means, in place.

    Args:
        moments: The means before the step. Their tensors are overwritten.
        value: Adam's input, such as a gradient; same shape as the moments.
    """
    moments.exp_avg.lerp_(value, 1 - moments.beta1)
    moments.exp_avg_sq.mul_(moments.beta2).addcmul_(value, value, value=1 - moments.beta2)


@overload
def bias_correction(beta: float, steps: int) -> float: ...


@overload
def bias_correction(beta: float, steps: Tensor) -> Tensor: ...


@overload
def bias_correction(beta: float, steps: int | Tensor) -> float | Tensor: ...


def bias_correction(beta: float, steps: int | Tensor) -> float | Tensor:
    """Return 1 - beta^steps, by which a running mean that began at zero is divided. A tensor of steps must be above 0.

    >>> bias_correction(0.5, 2)
    0.75
    >>> bias_correction(0.5, torch.tensor([1.0, 2.0]))
    tensor([0.5000, 0.7500])
    """
    if isinstance(steps, Tensor):  # in fp32, 1 - beta^steps would be rounded to 0 for a beta close to 1
        return torch.expm1(steps * math.log(beta)).neg_() if beta else torch.ones_like(steps)
    return 1 - beta**steps


def direction(moments: Moments) -> Tensor:
    """Return u = m^ / (sqrt(v^) + eps), which Adam multiplies by -lr.

    Source: Kingma & Ba 2015, algorithm 1.

    >>> grad = torch.tensor([4.0, -2.0])
    >>> direction(Moments(grad / 2, grad**2 / 2, step=1, beta1=0.5, beta2=0.5, eps=0.0)).round(decimals=4)
    tensor([ 1., -1.])
    """
    # both bias corrections go into the denominator, which saves a pass
    first, second = (bias_correction(beta, moments.step) for beta in (moments.beta1, moments.beta2))
    denominator = moments.exp_avg_sq.sqrt().mul_(first / second**0.5)
    if moments.eps:
        denominator.add_(moments.eps * first)
    else:
        denominator.masked_fill_(denominator == 0, 1.0)  # 0/0: an input that was always 0 does not move
    # write into the memory of the denominator: new memory costs more than the division
    return torch.div(moments.exp_avg, denominator, out=denominator)


def direction_and_slope(moments: Moments, value: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return u and D = du/dq, elementwise, at the last ``value`` q that went into its moments.

    The moments before that value count as constants. Where sqrt(v^) <= eps the slope is set to 0. Otherwise an input
    that was always 0 would have a slope of about 1/eps at its first other value.

    Args:
        moments: The means after ``value`` was folded in. Their step is a number.
        value: The q of that step, same shape.
        factor: Both results are multiplied by it.
    """
    step = int(moments.step)
    correction1, correction2 = (bias_correction(beta, step) for beta in (moments.beta1, moments.beta2))
    root = moments.exp_avg_sq.sqrt().mul_(1 / math.sqrt(correction2))
    denominator = root + moments.eps
    if not moments.eps:
        denominator.masked_fill_(denominator == 0, 1.0)
    # a scaled quotient in one pass
    update = torch.addcdiv(root.new_zeros(()), moments.exp_avg, denominator, value=factor / correction1)
    torch.threshold_(root, moments.eps, math.inf)  # where it is inf, the quotients below are 0
    own_share = root.new_full((), factor * (1 - moments.beta1) / correction1)
    slope = torch.mul(update, value, out=denominator)
    torch.addcdiv(own_share, slope, root, value=(moments.beta2 - 1) / correction2, out=slope)
    return update, slope.div_(root.add_(moments.eps))
