# How learned tensors are stepped along a meta-gradient: Adam on them, so that the scale of the loss cancels, and a
# non-finite meta-gradient is skipped and counted. No host synchronisation: the decision stays on the device. What is
# one number for a parameter is computed in one vector for all of them.
"""Adam on the factors of P."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

META_BETAS: Final = (0.9, 0.95)
"""Decay rates of the meta-gradient's moments. P has few updates and its gradient drifts: a short memory is best."""

SKIPPED: Final = "meta_skipped"
"""State entry that counts the meta-gradients that were not finite."""

_COUNT: Final = "meta_step"


def normalised_step(
    states: Sequence[dict[str, Tensor]],
    meta_gradients: Sequence[Mapping[str, Tensor]],
    p_lr: float,
    stack_dims: Sequence[int] | None = None,
) -> None:
    """Step the named tensors of every state against their meta-gradients, in place, with Adam's normalisation.

    If any meta-gradient of a parameter is not finite, or its square overflows, nothing of it moves and its
    ``meta_skipped`` grows by one.

    Args:
        states: Each holds the tensors of one parameter, and gets the moments (``<name>_exp_avg``,
            ``<name>_exp_avg_sq``) and counters.
        meta_gradients: For each state the gradient of the next loss for each tensor, same shapes.
        p_lr: Step size.
        stack_dims: For each state the leading dimensions of its tensors that count parameters; 0 if not given.
    """
    stack_dims = stack_dims or [0] * len(states)
    for state, pulled, dims in zip(states, meta_gradients, stack_dims, strict=True):
        _init(state, pulled, dims)
    sizes = [
        sum(grad.square().sum(tuple(range(dims, grad.ndim))) for grad in pulled.values())
        for pulled, dims in zip(meta_gradients, stack_dims, strict=True)
    ]
    finite = _joined(sizes) < math.inf  # False for NaN as well, and a third of the calls of isfinite
    accepted = finite.to(sizes[0].dtype)  # type: ignore[union-attr]
    torch._foreach_add_([state[_COUNT] for state in states], _parted(accepted, states))
    torch._foreach_add_([state[SKIPPED] for state in states], _parted(1 - accepted, states))
    beta1, beta2 = META_BETAS
    # with none accepted yet the averages are 0, and so is the step
    count = _joined([state[_COUNT] for state in states]).clamp_min(1)
    step_size = accepted * (1 - beta2**count).sqrt() / (1 - beta1**count) * -p_lr
    numbers = [_parted(each, states) for each in (finite, (1 - beta1) * accepted, (1 - beta2) * accepted, step_size)]
    rows = [
        (state, name, grad, *(number.view(*number.shape, *[1] * (grad.ndim - dims)) for number in of_state))
        for state, pulled, dims, *of_state in zip(states, meta_gradients, stack_dims, *numbers, strict=True)
        for name, grad in pulled.items()
    ]
    if rows:
        _step(rows)


def _step(rows: Sequence[tuple[dict[str, Tensor], str, Tensor, Tensor, Tensor, Tensor, Tensor]]) -> None:
    grads = [torch.where(kept, grad, 0.0) for _, _, grad, kept, *_ in rows]
    exp_avgs = [state[f"{name}_exp_avg"] for state, name, *_ in rows]
    exp_avg_sqs = [state[f"{name}_exp_avg_sq"] for state, name, *_ in rows]
    *_, first, second, sizes = zip(*rows, strict=True)
    torch._foreach_lerp_(exp_avgs, grads, first)
    torch._foreach_mul_(grads, grads)
    torch._foreach_lerp_(exp_avg_sqs, grads, second)
    roots = torch._foreach_sqrt(exp_avg_sqs)
    # below it a square is rounded to nothing, and the ratio is noise
    torch._foreach_add_(roots, torch.finfo(roots[0].dtype).tiny ** 0.5)
    torch._foreach_addcdiv_([state[name] for state, name, *_ in rows], torch._foreach_mul(exp_avgs, sizes), roots)


def _joined(numbers: Sequence[Tensor]) -> Tensor:
    """Return the numbers of all parameters as one vector."""
    return torch.cat([number.view(-1) for number in numbers])


def _parted(numbers: Tensor, states: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    """Undo :func:`_joined`: for each state its numbers, shaped as its counters."""
    counters = [state[_COUNT] for state in states]
    parts = numbers.split([counter.numel() for counter in counters])
    return [part.view(counter.shape) for part, counter in zip(parts, counters, strict=True)]


def _init(state: dict[str, Tensor], meta_gradients: Mapping[str, Tensor], stack_dims: int) -> None:
    for name, grad in meta_gradients.items():
        if f"{name}_exp_avg" not in state:
            state[f"{name}_exp_avg"] = torch.zeros_like(grad)
            state[f"{name}_exp_avg_sq"] = torch.zeros_like(grad)
            for counter in (_COUNT, SKIPPED):
                state.setdefault(counter, grad.new_zeros(grad.shape[:stack_dims]))
