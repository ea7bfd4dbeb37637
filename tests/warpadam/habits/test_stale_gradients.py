"""A momentum that no gradient feeds any more dies out, and one bad number does not stop a tensor for good."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import STRATEGIES, Strategy, WarpAdam

LIMITS: dict[str, Any] = {"max_dim": 8, "block_size": 16, "rank": 2, "meta_every": 2}
SHAPES: list[tuple[int, ...]] = [(6, 4), (9, 10), (5,), (3, 2, 2)]


def _noise(shape: tuple[int, ...], step: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def _moves(strategy: Strategy, shape: tuple[int, ...], grads: list[Tensor]) -> tuple[list[Tensor], WarpAdam]:
    """Return how far the parameter moved at each step."""
    param = nn.Parameter(torch.zeros(shape))
    optimizer = WarpAdam([param], 0.01, **strategy._asdict(), **LIMITS)
    moves = []
    for grad in grads:
        before, param.grad = param.detach().clone(), grad
        optimizer.step()
        moves.append(param.detach() - before)
    return moves, optimizer


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_tensor_whose_gradient_stays_zero_stops(strategy: Strategy, shape: tuple[int, ...]) -> None:
    grads = [_noise(shape, step) for step in range(40)] + [torch.zeros(shape)] * 200
    moves, _ = _moves(strategy, shape, grads)
    usual = max(float(move.norm()) for move in moves[30:40])
    assert sum(float(move.norm()) for move in moves[40:]) < 20 * usual
    assert max(float(move.norm()) for move in moves[-50:]) < 1e-3 * usual


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_after_one_spike_a_tensor_soon_stops_following_it(strategy: Strategy, shape: tuple[int, ...]) -> None:
    grads = [_noise(shape, step) for step in range(160)]
    grads[30] = 1e6 * grads[30]
    moves, _ = _moves(strategy, shape, grads)
    spike = moves[31] / moves[31].norm()
    along = [abs(float((move * spike).sum())) for move in moves[31:130]]
    assert sum(along) < 50 * float(moves[31].norm())


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_one_element_too_large_to_square_stops_no_other(strategy: Strategy) -> None:
    shape = (6, 4)
    grads = [_noise(shape, step) for step in range(60)]
    grads[20][2, 1] = 1e30
    moves, optimizer = _moves(strategy, shape, grads)
    others = torch.ones(shape, dtype=torch.bool)
    others[2, 1] = False
    usual = min(float(move[others].norm()) for move in moves[10:20])
    assert all(bool(move.isfinite().all()) for move in moves)
    assert min(float(move[others].norm()) for move in moves[30:]) > 0.05 * usual
    assert optimizer.skipped_updates >= int(strategy.structure != "diagonal")


@pytest.mark.parametrize("size", [1e10, 1e15, 1e19, 1e25, 3e38])
@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s.structure == "kronecker"], ids=str)
def test_a_spike_of_any_size_stops_a_matrix_no_longer_than_adam(strategy: Strategy, size: float) -> None:
    """Adam forgets a spike of 1e13, the largest that is not left out, in about 1,200 steps at this beta."""
    grads = [_noise((6, 4), step) for step in range(1400)]
    grads[20][2, 1] = size
    moves, optimizer = _moves(strategy, (6, 4), grads)
    usual = min(float(move.norm()) for move in moves[10:20])
    assert min(float(move.norm()) for move in moves[-50:]) > 0.05 * usual
    assert all(value.isfinite().all() for state in optimizer.state.values() for value in state.values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_gradient_that_is_not_finite_shows_in_the_parameter(strategy: Strategy, bad: float) -> None:
    """As in torch.optim: it is not hidden."""
    grads = [_noise((6, 4), step) for step in range(8)]
    grads[6][2, 1] = bad
    moves, _ = _moves(strategy, (6, 4), grads)
    assert not bool(moves[6].isfinite().all())
