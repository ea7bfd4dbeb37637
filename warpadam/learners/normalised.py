"""Steps learned tensors along their meta-gradient with Adam, so that the scale of the loss cancels.

A meta-gradient that is not finite is skipped and counted. The decision stays on the device, so nothing waits for it.
Numbers that each parameter has once are computed in one vector for all parameters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

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
    states: Sequence[dict[str, Tensor]],
    meta_gradients: Sequence[Mapping[str, Tensor]],
    p_lr: float,
    stack_dims: Sequence[int] | None = None,
) -> None:
    """Step the named tensors of every state against their meta-gradients, in place, as Adam does.

    If a meta-gradient of a parameter is not finite, or its square overflows, none of the parameter's tensors move and
    its ``skipped`` grows by one. A meta-gradient of zero teaches nothing and moves nothing.

    Args:
        states: Each holds the tensors of one parameter, and what :func:`init_normalised` returned for them.
        meta_gradients: For each state, the gradient of the next loss for each tensor, of the same shape. Overwritten.
        p_lr: Step size.
        stack_dims: For each state, how many leading dimensions of its tensors count parameters. Default: 0.
    """
    stack_dims = stack_dims or [0] * len(states)
    names = [(state, name) for state, pulled in zip(states, meta_gradients, strict=True) for name in pulled]
    if not names:
        return
    sizes = [
        functools.reduce(torch.add, (_square_sum(grad, dims) for grad in pulled.values())).view(-1)
        for pulled, dims in zip(meta_gradients, stack_dims, strict=True)
    ]
    size = torch.cat(sizes)
    finite = size < math.inf  # False for NaN as well, and a third of the calls of isfinite
    accepted = finite & (size > 0)
    numbers = _decide(states, accepted.to(size.dtype), finite.to(size.dtype), p_lr)
    lengths, zero = [size.numel() for size in sizes], sizes[0].new_zeros(())
    kept: list[Tensor] = []
    chosen: list[tuple[Tensor, ...]] = []
    for pulled, dims, flags, values in zip(
        meta_gradients,
        stack_dims,
        accepted.split_with_sizes(lengths),
        numbers.split_with_sizes(lengths, 1),
        strict=True,
    ):
        for grad in pulled.values():
            each = (*grad.shape[:dims], *[1] * (grad.ndim - dims))
            kept.append(torch.where(flags.view(each), grad, zero, out=grad))
            chosen.append(values.view(3, *each).unbind())
    first, second, step_sizes = zip(*chosen, strict=True)
    _step(names, kept, first, second, step_sizes)


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
    if stack_dims:
        return grad.square().flatten(1).sum(1)
    flat = grad.reshape(-1)
    return torch.dot(flat, flat)


def _decide(states: Sequence[dict[str, Tensor]], accepted: Tensor, finite: Tensor, p_lr: float) -> Tensor:
    """Update the counters; return for each parameter the weights of both averages and minus the step size."""
    steps, skips = ([state[name].view(-1) for state in states] for name in (_COUNT, SKIPPED))
    counts, skipped = torch.cat(steps).add_(accepted), torch.cat(skips).add_(1 - finite)
    lengths = [step.numel() for step in steps]
    for kept, values in ((steps, counts), (skips, skipped)):
        torch._foreach_copy_(kept, list(values.split_with_sizes(lengths)))
    beta1, beta2 = META_BETAS
    count = counts.clamp_min_(1)  # with none accepted yet the averages are 0, and so is the step
    step_size = accepted * (1 - beta2**count).sqrt_() / (1 - beta1**count) * -p_lr
    return torch.stack(((1 - beta1) * accepted, (1 - beta2) * accepted, step_size))


def _step(
    names: Sequence[tuple[dict[str, Tensor], str]],
    grads: list[Tensor],
    first: tuple[Tensor, ...],
    second: tuple[Tensor, ...],
    step_sizes: tuple[Tensor, ...],
) -> None:
    """Step the named tensors as Adam does; overwrites ``grads``."""
    exp_avgs = [state[f"{name}_exp_avg"] for state, name in names]
    exp_avg_sqs = [state[f"{name}_exp_avg_sq"] for state, name in names]
    torch._foreach_lerp_(exp_avgs, grads, first)
    torch._foreach_mul_(grads, grads)
    torch._foreach_lerp_(exp_avg_sqs, grads, second)
    roots = torch._foreach_sqrt(exp_avg_sqs)
    # smaller roots come from squares that were rounded to zero, where the ratio is noise
    torch._foreach_add_(roots, torch.finfo(roots[0].dtype).tiny ** 0.5)
    torch._foreach_div_(roots, step_sizes)  # a step size of 0 makes them infinite
    torch._foreach_addcdiv_([state[name] for state, name in names], exp_avgs, roots)
