"""Steps learned tensors along their meta-gradient with Adam, so that the scale of the loss cancels.

A meta-gradient that is not finite is skipped and counted. The decision stays on the device, so nothing waits for it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from warpadam.adam import bias_correction
from warpadam.learners.base import SKIPPED
from warpadam.structures import Distortion

META_BETAS: Final = (0.9, 0.95)
"""Decay rates of the meta-gradient's moments. P has few updates and its gradient drifts, so a short memory is best."""

_COUNT: Final = "meta_step"


def init_normalised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what :func:`normalised_step` remembers about the tensors of one parameter, before its first step.

    These are the moments (``<name>_exp_avg``, ``<name>_exp_avg_sq``) and two counters.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        state |= {f"{name}_exp_avg": torch.zeros_like(tensor), f"{name}_exp_avg_sq": torch.zeros_like(tensor)}
        state |= {_COUNT: tensor.new_zeros(()), SKIPPED: tensor.new_zeros(())}
    return state


def normalised_step(
    state: dict[str, Tensor], meta_gradients: Mapping[str, Tensor], p_lr: float, stack_dims: int = 0
) -> None:
    """Step the named tensors of a state against their meta-gradients, in place, as Adam does.

    If a meta-gradient of a parameter is not finite, or its square overflows, none of the parameter's tensors move and
    its ``skipped`` grows by one. A meta-gradient of zero teaches nothing and moves nothing.

    Args:
        state: Holds the tensors, and what :func:`init_normalised` returned for them.
        meta_gradients: The gradient of the next loss for each tensor, of the same shape. Overwritten.
        p_lr: Step size.
        stack_dims: How many leading dimensions of the tensors count parameters: 0 or 1.
    """
    if not meta_gradients:
        return
    size = functools.reduce(torch.add, (_square_sum(grad, stack_dims) for grad in meta_gradients.values()))
    accepted = _accepted(state, size)
    first, second, step_size = _weights(state[_COUNT].add_(accepted), accepted, p_lr)
    for name, grad in meta_gradients.items():
        each = (*size.shape, *[1] * (grad.ndim - stack_dims))
        kept = torch.where(accepted.view(each) > 0, grad, 0.0) if isinstance(accepted, Tensor) else grad
        exp_avg, exp_avg_sq = state[f"{name}_exp_avg"], state[f"{name}_exp_avg_sq"]
        exp_avg.lerp_(kept, _viewed(first, each))
        exp_avg_sq.lerp_(kept.square_(), _viewed(second, each))
        # smaller roots come from squares that were rounded to zero, where the ratio is noise
        root = exp_avg_sq.sqrt().add_(torch.finfo(grad.dtype).tiny ** 0.5)
        state[name].addcdiv_(exp_avg, root.div_(_viewed(step_size, each)))  # a step size of 0 makes the root infinite


def restart_unless_finite(distortion: Distortion, state: dict[str, Tensor]) -> None:
    """If a covariance of a parameter is not finite, zero all of them and count that in ``skipped``; in place."""
    names = list(distortion.sides.values())
    if not names:
        return
    # One covariance is enough: all have the same trace, the sum of the gradient's squares, and no element of such a
    # matrix is larger than the largest on its diagonal.
    dims = state[SKIPPED].ndim
    usable = state[names[0]].diagonal(dim1=-2, dim2=-1).flatten(dims).sum(-1).isfinite()
    state[SKIPPED] += (~usable).to(state[SKIPPED].dtype)
    zero = state[SKIPPED].new_zeros(())
    for name in names:
        each = usable.view(*usable.shape, *[1] * (state[name].ndim - dims))
        torch.where(each, state[name], zero, out=state[name])


def _square_sum(grad: Tensor, stack_dims: int) -> Tensor:
    flat = grad.flatten(stack_dims)
    total: Tensor = torch.linalg.vecdot(flat, flat)
    return total


def _accepted(state: dict[str, Tensor], size: Tensor) -> int | Tensor:
    """Return 1 for each meta-gradient that is finite and not zero, otherwise 0, and count what is not finite.

    On a CPU it is the number 1 if all are accepted, which saves the calls that would mask the others.

    Args:
        state: Its ``skipped`` is changed.
        size: The sums of squares of the meta-gradients.
    """
    if size.is_cpu and all(0 < number < math.inf for number in size.view(-1).tolist()):
        return 1
    finite = size < math.inf  # False for NaN as well, and a third of the calls of isfinite
    state[SKIPPED].add_(~finite)
    return (finite & (size > 0)).to(size.dtype)


def _weights(
    counts: Tensor, accepted: int | Tensor, p_lr: float
) -> tuple[float | Tensor, float | Tensor, float | Tensor]:
    """Return for each parameter the weights of its meta-gradient in both averages, and minus the step size.

    Args:
        counts: How many meta-gradients were accepted, with this one.
        accepted: 1 where this one is, otherwise 0.
        p_lr: Step size before the bias corrections.
    """
    beta1, beta2 = META_BETAS
    numbers = [] if isinstance(accepted, Tensor) else counts.view(-1).tolist()
    if numbers and numbers.count(numbers[0]) == len(numbers):
        step_size = -p_lr * bias_correction(beta2, numbers[0]) ** 0.5 / bias_correction(beta1, numbers[0])
        return 1 - beta1, 1 - beta2, step_size
    counts = counts.clamp_min(1)  # with none accepted yet the averages are 0, and so is the step
    correction1, correction2 = (bias_correction(beta, counts) for beta in META_BETAS)
    step_sizes = correction2.sqrt_().div_(correction1).mul_(accepted).mul_(-p_lr)
    return accepted * (1 - beta1), accepted * (1 - beta2), step_sizes


def _viewed(weight: float | Tensor, shape: tuple[int, ...]) -> float | Tensor:
    return weight.view(shape) if isinstance(weight, Tensor) else weight
