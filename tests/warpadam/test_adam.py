"""Adam's arithmetic against torch's own Adam and against autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from warpadam import WarpAdam
from warpadam.adam import Moments, direction, direction_and_slope, update_moments


def _moments(values: list[Tensor], beta1: float = 0.9, beta2: float = 0.95, eps: float = 1e-8) -> Moments:
    """Moments after all of ``values``."""
    moments = Moments(torch.zeros_like(values[0]), torch.zeros_like(values[0]), len(values), beta1, beta2, eps)
    for value in values:
        update_moments(moments, value)
    return moments


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.9), (0.8, 0.0)])
def test_direction_is_the_step_of_torch_adam(betas: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    param = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([param], lr=1.0, betas=betas, eps=1e-6)
    values: list[Tensor] = []
    for _ in range(6):
        values.append(torch.randn(5, dtype=torch.float64, generator=generator))
        before, param.grad = param.detach().clone(), values[-1].clone()
        adam.step()
        expected = before - param.detach()
        ours = direction(_moments(values, *betas, eps=1e-6))
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


@given(seed=st.integers(0, 10**6), steps=st.integers(2, 6), beta1=st.sampled_from([0.0, 0.5, 0.9]))
@settings(deadline=None, max_examples=40)
def test_slope_equals_autograd_through_the_last_update(seed: int, steps: int, beta1: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(7, dtype=torch.float64, generator=generator) for _ in range(steps)]
    before = _moments(values[:-1], beta1)
    last = values[-1].clone().requires_grad_()
    exp_avg = beta1 * before.exp_avg + (1 - beta1) * last
    exp_avg_sq = 0.95 * before.exp_avg_sq + 0.05 * last**2
    root = (exp_avg_sq / (1 - 0.95**steps)).sqrt()
    (expected,) = torch.autograd.grad((exp_avg / (1 - beta1**steps) / (root + 1e-8)).sum(), last)
    update, slope = direction_and_slope(_moments(values, beta1), values[-1])
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(update, direction(_moments(values, beta1)), rtol=1e-12, atol=1e-14)
    scaled = direction_and_slope(_moments(values, beta1), values[-1], -0.5)
    torch.testing.assert_close(list(scaled), [-0.5 * update, -0.5 * slope], rtol=1e-12, atol=1e-14)


def test_slope_is_zero_where_the_input_was_always_dead() -> None:
    dead_then_tiny = [torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0])]
    _, slope = direction_and_slope(_moments(dead_then_tiny), dead_then_tiny[-1])
    assert slope[0] == 0
    assert slope[1] != 0


def test_slope_is_zero_where_the_root_does_not_exceed_eps() -> None:
    values = [torch.tensor([1e-9, 1.0], dtype=torch.float64)] * 3
    assert direction_and_slope(_moments(values, eps=1e-8), values[-1])[1][0] == 0


def test_slope_is_finite_when_a_dead_input_revives() -> None:
    values = [torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([1e-3])]
    assert direction_and_slope(_moments(values), values[-1])[1].abs().item() < 1e4


def test_a_dead_input_does_not_move_even_without_eps() -> None:
    moments, expected = _moments([torch.tensor([0.0, -3.0])], eps=0.0), torch.tensor([0.0, -1.0])
    torch.testing.assert_close(direction(moments), expected)
    torch.testing.assert_close(direction_and_slope(moments, torch.tensor([0.0, -3.0]))[0], expected)


def test_direction_does_not_change_the_moments() -> None:
    moments = _moments([torch.tensor([1.0, 2.0]), torch.tensor([3.0, -4.0])])
    before = (moments.exp_avg.clone(), moments.exp_avg_sq.clone())
    direction(moments)
    direction_and_slope(moments, torch.tensor([3.0, -4.0]))
    assert torch.equal(moments.exp_avg, before[0])
    assert torch.equal(moments.exp_avg_sq, before[1])


@pytest.mark.parametrize("learner", ["frozen", "whitening"])
@pytest.mark.parametrize("beta2", [0.0, 0.999, 1 - 1e-7, 1 - 1e-8])
def test_parameters_with_other_numbers_of_steps_move_as_they_would_alone(learner: str, beta2: float) -> None:
    def moved(others: int) -> Tensor:
        late, *early = (nn.Parameter(torch.zeros(3, 5)) for _ in range(1 + others))
        optimizer = WarpAdam([late, *early], lr=0.01, betas=(0.9, beta2), learner=learner)
        for param in early:
            param.grad = torch.ones(3, 5)
        optimizer.step()
        for param in (late, *early):
            param.grad = torch.arange(15.0).view(3, 5)
        optimizer.step()
        return late.detach()

    torch.testing.assert_close(moved(1), moved(0), rtol=1e-5, atol=1e-8)
