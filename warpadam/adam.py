"""Adam's arithmetic: moments, direction, and the slope of the direction with respect to the last input.

These are pure functions over lists of tensors. They do not know P, parameters or groups. ``placements.py`` combines
them with P, and the rules in ``learners/`` call them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Adam's two running means of some tensors.

    Attributes:
        exp_avgs: First moments, any shapes.
        exp_avg_sqs: Second moments, same shapes.
        steps: Number of updates of each tensor so far. A direction needs at least 1.
        beta1: Decay rate of the first moment.
        beta2: Decay rate of the second moment.
        eps: Added to the root of the second moment.
    """

    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    steps: Sequence[int]
    beta1: float
    beta2: float
    eps: float


def update_moments(moments: Moments, values: list[Tensor]) -> None:
    """Fold ``values`` into both running means, in place.

    Args:
        moments: The means before the step. Their tensors are overwritten.
        values: Adam's input, such as a gradient; same shapes as the moments.
    """
    torch._foreach_lerp_(moments.exp_avgs, values, 1 - moments.beta1)
    torch._foreach_mul_(moments.exp_avg_sqs, moments.beta2)
    torch._foreach_addcmul_(moments.exp_avg_sqs, values, values, value=1 - moments.beta2)


def directions(moments: Moments) -> list[Tensor]:
    """Return u = m^ / (sqrt(v^) + eps) of every tensor, which Adam multiplies by -lr.

    Source: Kingma & Ba 2015, algorithm 1.

    >>> grad = torch.tensor([4.0, -2.0])
    >>> directions(Moments([grad / 2], [grad**2 / 2], steps=[1], beta1=0.5, beta2=0.5, eps=0.0))[0].round(decimals=4)
    tensor([ 1., -1.])
    """
    # both bias corrections go into the denominator, which saves a pass
    firsts = [1 - moments.beta1**step for step in moments.steps]
    seconds = [math.sqrt(1 - moments.beta2**step) for step in moments.steps]
    denominators = list(torch._foreach_sqrt(moments.exp_avg_sqs))
    torch._foreach_mul_(denominators, [first / second for first, second in zip(firsts, seconds, strict=True)])
    if moments.eps:
        torch._foreach_add_(denominators, [moments.eps * first for first in firsts])
    else:
        for denominator in denominators:
            denominator.masked_fill_(denominator == 0, 1.0)  # 0/0: an input that was always 0 does not move
    # write into the memory of the denominators: new memory costs more than the division
    return [torch.div(*pair, out=pair[1]) for pair in zip(moments.exp_avgs, denominators, strict=True)]


def direction_and_slope(moments: Moments, value: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return u and D = du/dq of one tensor, elementwise, at the last ``value`` q that went into its moments.

    The moments before that value count as constants. Where sqrt(v^) <= eps the slope is set to 0. Otherwise an input
    that was always 0 would have a slope of about 1/eps at its first other value.

    Args:
        moments: The means after ``value`` was folded in.
        value: The q of that step, same shape.
        factor: Both results are multiplied by it.
    """
    (exp_avg,), (exp_avg_sq,), (step,) = moments.exp_avgs, moments.exp_avg_sqs, moments.steps
    correction1, correction2 = 1 - moments.beta1**step, 1 - moments.beta2**step
    root = exp_avg_sq.sqrt().mul_(1 / math.sqrt(correction2))
    denominator = root + moments.eps
    if not moments.eps:
        denominator.masked_fill_(denominator == 0, 1.0)
    # a scaled quotient in one pass
    update = torch.addcdiv(root.new_zeros(()), exp_avg, denominator, value=factor / correction1)
    torch.threshold_(root, moments.eps, math.inf)  # where it is inf, the quotients below are 0
    own_share = root.new_full((), factor * (1 - moments.beta1) / correction1)
    slope = torch.mul(update, value, out=denominator)
    torch.addcdiv(own_share, slope, root, value=(moments.beta2 - 1) / correction2, out=slope)
    return update, slope.div_(root.add_(moments.eps))
