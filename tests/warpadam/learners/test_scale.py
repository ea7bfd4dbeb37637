"""The learned step size of each row and column."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from warpadam.learners import Part, StepSettings
from warpadam.learners.scale import (
    LOG_SCALE,
    MAX_LOG_SCALE,
    init_learned_scale,
    learn_scale,
    remember,
    reorder_scale,
    scaled_direction,
)
from warpadam.structures import FullDistortion, KroneckerDistortion

FLOAT64 = torch.float64


def _part(layout: tuple[int, ...], log_scale: Tensor | None = None) -> Part:
    distortion = KroneckerDistortion(layout, row_blocks=0, column_blocks=0)
    shape = distortion.scale_shape if log_scale is None else tuple(log_scale.shape)
    part = Part(
        distortion,
        {**init_learned_scale(distortion, shape, FLOAT64, torch.device("cpu")), "step": torch.ones(())},
        torch.zeros(layout, dtype=FLOAT64),
    )
    if log_scale is not None:
        part.state[LOG_SCALE] = log_scale
    return part


def _scaled(part: Part, update: Tensor) -> Tensor:
    scaled = update.clone()
    return scaled_direction(part, scaled)


def _learn(part: Part, next_grad: Tensor, scaled: Tensor, p_lr: float, p_decay: float = 0.0) -> Tensor:
    remember(part, scaled)
    learn_scale(part, next_grad, [2], StepSettings(0.9, 0.95, 1e-8, p_lr, 10, p_decay, 0.95))
    return part.state[LOG_SCALE]


@pytest.mark.parametrize("layout", [(3, 4), (5,)])
def test_the_start_is_exactly_one(layout: tuple[int, ...]) -> None:
    update = torch.randn(layout, dtype=FLOAT64)
    assert torch.equal(_scaled(_part(layout), update), update)
    assert torch.equal(_scaled(_part(layout)._replace(state={}), update), update)


@pytest.mark.parametrize(
    ("log_scale", "expected"),
    [
        ([math.log(2), 0.0, 0.0, math.log(3), 0.0], [[2.0, 6.0, 2.0], [1.0, 3.0, 1.0]]),
        ([math.log(5)], [[5.0] * 3] * 2),
        ([[0.0, 1.0, 9.0], [-9.0, 0.0, 0.0]], [[1.0, math.e, math.e**2], [math.e**-2, 1.0, 1.0]]),
    ],
    ids=["row_times_column", "one_number", "each_element_within_the_trust_range"],
)
def test_the_shape_of_the_scale_says_what_it_scales(log_scale: list[float], expected: list[list[float]]) -> None:
    part = _part((2, 3), torch.tensor(log_scale))
    torch.testing.assert_close(_scaled(part, torch.ones(2, 3)), torch.tensor(expected))


@pytest.mark.parametrize(
    ("layout", "scale_shape"), [((3, 4), (7,)), ((5,), (5,)), ((3, 4), (1,)), ((3, 4), (3, 4))], ids=str
)
def test_the_meta_gradient_is_autograd_through_the_scaled_step(
    layout: tuple[int, ...], scale_shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(1)
    update, next_grad = (torch.randn(layout, dtype=FLOAT64, generator=generator) for _ in range(2))
    before = 0.3 * torch.randn(scale_shape, dtype=FLOAT64, generator=generator)
    log_scale = before.clone().requires_grad_()
    (expected,) = torch.autograd.grad(-(next_grad * _scaled(_part(layout, log_scale), update)).sum(), log_scale)
    part = _part(layout, before.clone())
    after = _learn(part, next_grad, _scaled(part, update), 0.01)
    torch.testing.assert_close(part.state[f"{LOG_SCALE}_exp_avg"] * 10, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(after, before - 0.01 * expected.sign())


def test_the_scale_grows_where_steps_agree_with_the_next_gradient() -> None:
    after = _learn(_part((2,)), torch.tensor([1.0, -1.0], dtype=FLOAT64), torch.ones(2, dtype=FLOAT64), 0.1)
    torch.testing.assert_close(after, torch.tensor([0.1, -0.1], dtype=FLOAT64))


def test_the_scale_stays_in_its_trust_range() -> None:
    part, ones = _part((2, 2)), torch.ones(2, 2, dtype=FLOAT64)
    for _ in range(10):
        _learn(part, ones, ones, 1.0)
    assert part.state[LOG_SCALE].abs().max() <= MAX_LOG_SCALE
    assert _scaled(part, ones).max() <= math.exp(MAX_LOG_SCALE) * (1 + 1e-12)


def test_decay_pulls_the_scale_to_one() -> None:
    part = _part((2,), torch.ones(2, dtype=FLOAT64))
    after = _learn(part, torch.zeros(2, dtype=FLOAT64), torch.ones(2, dtype=FLOAT64), 0.1, 0.25)
    torch.testing.assert_close(after, torch.full((2,), 0.75, dtype=FLOAT64))


KRONECKER = KroneckerDistortion((2, 3), row_blocks=1, column_blocks=1)


@pytest.mark.parametrize("name", [LOG_SCALE, f"{LOG_SCALE}_exp_avg", f"{LOG_SCALE}_exp_avg_sq"])
def test_reordering_permutes_one_side_and_its_moments(name: str) -> None:
    state = {name: torch.arange(5.0)}
    reorder_scale(state, KRONECKER, "column_factor", torch.tensor([2, 0, 1]))
    assert state[name].tolist() == [0, 1, 4, 2, 3]
    state = {name: torch.arange(6.0).view(2, 3)}
    reorder_scale(state, FullDistortion(6, 3), "blocks", torch.tensor([[2, 0, 1], [0, 2, 1]]))
    assert state[name].tolist() == [[2, 0, 1], [3, 5, 4]]


def test_reordering_without_a_scale_does_nothing() -> None:
    state: dict[str, Tensor] = {}
    reorder_scale(state, KRONECKER, "row_factor", torch.tensor([1, 0]))
    assert state == {}
