# The learned step size of each row and column.

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from warpadam.learners.scale import (
    LOG_SCALE,
    MAX_LOG_SCALE,
    init_scale,
    learn_scale,
    reorder_scale,
    scale_direction,
)

FLOAT64, CPU = torch.float64, torch.device("cpu")


def _scale(layout: tuple[int, ...], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {LOG_SCALE: 0.3 * torch.randn(sum(layout), dtype=FLOAT64, generator=generator)}


@pytest.mark.parametrize("layout", [(3, 4), (5,)])
def test_the_start_is_exactly_one(layout: tuple[int, ...]) -> None:
    update = torch.randn(layout, dtype=FLOAT64)
    assert torch.equal(scale_direction(init_scale(layout, FLOAT64, CPU), update), update)
    assert scale_direction({}, update) is update


def test_a_matrix_is_scaled_by_its_row_times_its_column() -> None:
    state = {LOG_SCALE: torch.tensor([math.log(2), 0.0, 0.0, math.log(3), 0.0])}
    expected = torch.tensor([[2.0, 6.0, 2.0], [1.0, 3.0, 1.0]])
    torch.testing.assert_close(scale_direction(state, torch.ones(2, 3)), expected)


@pytest.mark.parametrize("layout", [(3, 4), (5,)])
def test_the_meta_gradient_is_autograd_through_the_scaled_step(layout: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    update, next_grad = (torch.randn(layout, dtype=FLOAT64, generator=generator) for _ in range(2))
    state = _scale(layout)
    log_scale = state[LOG_SCALE].clone().requires_grad_()
    moved = -(next_grad * scale_direction({LOG_SCALE: log_scale}, update)).sum()
    (expected,) = torch.autograd.grad(moved, log_scale)
    before = state[LOG_SCALE].clone()
    learn_scale(state, next_grad, scale_direction(state, update), 0.01, 0.0)
    torch.testing.assert_close(state[f"{LOG_SCALE}_exp_avg"] * 10, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state[LOG_SCALE], before - 0.01 * expected.sign())


def test_the_scale_grows_where_steps_agree_with_the_next_gradient() -> None:
    state = init_scale((2,), FLOAT64, CPU)
    learn_scale(state, torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0]), 0.1, 0.0)
    torch.testing.assert_close(state[LOG_SCALE], torch.tensor([0.1, -0.1], dtype=FLOAT64))


def test_the_scale_stays_in_its_trust_range() -> None:
    state = init_scale((2, 2), FLOAT64, CPU)
    for _ in range(10):
        learn_scale(state, torch.ones(2, 2, dtype=FLOAT64), torch.ones(2, 2, dtype=FLOAT64), 1.0, 0.0)
    assert state[LOG_SCALE].abs().max() <= MAX_LOG_SCALE
    assert scale_direction(state, torch.ones(2, 2, dtype=FLOAT64)).max() <= math.exp(MAX_LOG_SCALE) * (1 + 1e-12)


def test_decay_pulls_the_scale_to_one() -> None:
    state = {LOG_SCALE: torch.ones(2, dtype=FLOAT64)}
    learn_scale(state, torch.zeros(2, dtype=FLOAT64), torch.ones(2, dtype=FLOAT64), 0.1, 0.25)
    torch.testing.assert_close(state[LOG_SCALE], torch.full((2,), 0.75, dtype=FLOAT64))


def test_reordering_permutes_one_axis_and_its_moments() -> None:
    state = {LOG_SCALE: torch.arange(5.0), f"{LOG_SCALE}_exp_avg": torch.arange(5.0) + 10}
    reorder_scale(state, (2, 3), 1, torch.tensor([2, 0, 1]))
    assert state[LOG_SCALE].tolist() == [0, 1, 4, 2, 3]
    assert state[f"{LOG_SCALE}_exp_avg"].tolist() == [10, 11, 14, 12, 13]


def test_reordering_without_a_scale_does_nothing() -> None:
    state: dict[str, Tensor] = {}
    reorder_scale(state, (2, 3), 0, torch.tensor([1, 0]))
    assert state == {}
