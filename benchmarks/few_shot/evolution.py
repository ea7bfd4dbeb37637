"""Tunes how long the steps of each parameter are, by the losses that whole trainings arrive at.

A meta-gradient judges a step by the next gradient. Evolution trains whole tasks, with slightly longer and slightly
shorter steps, and moves towards what ended lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from benchmarks.few_shot.networks import MARKS, RowsTask, train_together
from warpadam import Warp, WarpAdam

_PAIRS: Final = 8
_NOISE: Final = 0.25
_STEP: Final = 0.125
_BETAS: Final = (0.7, 0.9)


def evolve(tasks: Sequence[RowsTask], warp: Warp, lr: float, rounds: int, seed: int) -> Warp:
    """Return P with longer or shorter steps for each parameter.

    Every round trains pairs of equal networks on the same batches of a task: one with random changes of the numbers,
    the other with the opposite changes. The mean of the log losses at the marks, on the rows to train on and on those
    held out, decides between them.
    """
    generator = torch.Generator().manual_seed(seed)
    names = list(warp.parameters)
    numbers, first, second = torch.zeros(3, len(names), dtype=torch.float64)
    kept = []
    for turn in range(rounds):
        noise = torch.randn(_PAIRS, len(names), generator=generator, dtype=torch.float64)
        chosen = [tasks[index] for index in torch.randint(len(tasks), (_PAIRS,), generator=generator).tolist()]
        tried = [numbers + _NOISE * sign * row for sign in (1, -1) for row in noise]
        one, other = _scores(chosen, [longer_steps(warp, row) for row in tried], lr, seed * rounds + turn).chunk(2)
        slope = ((one - other).clamp(-2, 2)[:, None] * noise).mean(0)
        first = _BETAS[0] * first + (1 - _BETAS[0]) * slope
        second = _BETAS[1] * second + (1 - _BETAS[1]) * slope.square()
        unbiased = first / (1 - _BETAS[0] ** (turn + 1)), second / (1 - _BETAS[1] ** (turn + 1))
        numbers = numbers - _STEP * (1 - turn / rounds) * unbiased[0] / (unbiased[1].sqrt() + 1e-12)
        kept.append(numbers)
    return longer_steps(warp, torch.stack(kept[-(rounds // 3) :]).mean(0))


def longer_steps(warp: Warp, log_factors: Tensor) -> Warp:
    """Multiply the steps of each parameter by exp of a number. P must have been learned by rotation."""
    tensors = warp.tensors()
    for name, number in zip(warp.parameters, log_factors.tolist(), strict=True):
        shape = warp.parameters[
            name
        ].shape  # a matrix has scales for its rows and for its columns, which are multiplied
        log_scale = tensors[name].get("log_scale", torch.zeros(sum(shape)))
        tensors[name]["log_scale"] = log_scale + number / len(shape)
    return warp.with_tensors(tensors)


def _scores(tasks: Sequence[RowsTask], warps: Sequence[Warp], lr: float, seed: int) -> Tensor:
    parameters = {f"{i}.{name}": own for i, warp in enumerate(warps) for name, own in warp.parameters.items()}
    many = Warp(warps[0].config, parameters)

    def make(named: list[tuple[str, torch.nn.Parameter]]) -> list[WarpAdam]:
        return [many.optimizer(named, lr=lr)]

    losses = train_together([*tasks, *tasks], make, seed, MARKS, twins=True).double()
    return losses.clamp(1e-12, 1e6).log().mean((0, 2))
