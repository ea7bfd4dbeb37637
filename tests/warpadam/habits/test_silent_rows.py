"""Rows and columns without a gradient do not move: dead units, masked rows, tokens that no batch had."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import STRATEGIES, Strategy, WarpAdam

LEARNERS = ["whitening", "rotation"]

KEEPING = [strategy for strategy in STRATEGIES if strategy[:2] != ("low_rank", "sandwich")]
"""The random factor of ``low_rank`` is part of its P^T, which moves every row with every other."""


def _moved(
    settings: dict[str, Any], steps: int, silent_from: int, *, count: int = 1, rank: int = 30, dtype: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Train a 30 x 20 matrix whose gradient has silent rows and columns from some step on, beside others like it.

    Returns:
        How far each element moved in the last 20 steps together; which rows are silent; which columns are.
    """
    generator = torch.Generator().manual_seed(3)
    params = [nn.Parameter(torch.zeros(30, 20, dtype=dtype)) for _ in range(count)]
    optimizer = WarpAdam(params, **settings)
    mix = torch.randn(30, rank, generator=generator) @ torch.randn(rank, 30, generator=generator)
    rows, columns = torch.arange(30) % 3 == 0, torch.arange(20) < 3
    moved = torch.zeros_like(params[0])
    for step in range(steps):
        for param in params:
            grad = mix @ torch.randn(30, 20, generator=generator)
            if step >= silent_from:
                grad[rows] = 0
                grad[:, columns] = 0
            param.grad = grad.to(param.dtype)
        before = params[0].detach().clone()
        optimizer.step()
        if step >= steps - 20:
            moved += (params[0].detach() - before).abs()
    return moved, rows, columns


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [30, 5])
@pytest.mark.parametrize("limits", [{}, {"max_dim": 12, "block_size": 42}], ids=["whole", "blocks"])
@pytest.mark.parametrize("strategy", KEEPING, ids=str)
def test_without_a_gradient_nothing_moves(
    strategy: Strategy, limits: dict[str, int], rank: int, dtype: torch.dtype
) -> None:
    moved, rows, columns = _moved({**strategy._asdict(), **limits}, 12, 0, rank=rank, dtype=dtype)
    assert torch.count_nonzero(moved[rows]) == 0
    assert torch.count_nonzero(moved[:, columns]) == 0
    assert moved[~rows][:, ~columns].min() > 0


@pytest.mark.parametrize("learner", LEARNERS)
def test_next_to_other_matrices_of_its_shape_it_is_the_same(learner: str) -> None:
    moved, rows, columns = _moved({"learner": learner}, 12, 0, count=8)
    assert torch.count_nonzero(moved[rows]) == 0
    assert torch.count_nonzero(moved[:, columns]) == 0


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("rank", [30, 5])
@pytest.mark.parametrize("learner", LEARNERS)
def test_long_after_their_last_gradient_they_stand_still(learner: str, rank: int, count: int) -> None:
    """With a short memory: the second moment has then forgotten the gradients, and any noise would be a full step."""
    settings = {"learner": learner, "cov_beta": 0.6, "betas": (0.6, 0.7)}
    moved, rows, columns = _moved(settings, 200, 20, rank=rank, count=count)
    usual = moved[~rows][:, ~columns].mean()
    assert moved[rows].max() < 1e-6 * usual
    assert moved[:, columns].max() < 1e-6 * usual


def test_rows_of_a_rotation_that_have_a_gradient_again_move_as_the_others_do() -> None:
    generator = torch.Generator().manual_seed(3)
    param = nn.Parameter(torch.zeros(30, 20))
    optimizer = WarpAdam([param], learner="rotation")
    for step in range(60):
        if step == 40:
            before = param.detach().clone()
        param.grad = torch.randn(30, 20, generator=generator)
        if step < 30:
            param.grad[:10] = 0
        optimizer.step()
    moved = (param.detach() - before).abs()
    assert moved[:10].mean().item() == pytest.approx(moved[10:].mean().item(), rel=0.3)
