"""Adam on learned tensors: its step size, its indifference to scale, and what it skips."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from warpadam.learners.normalised import META_BETAS, init_normalised, normalised_step


def _tensors() -> dict[str, Tensor]:
    return {"a": torch.zeros(3, dtype=torch.float64), "b": torch.ones(2, 2, dtype=torch.float64)}


def _state() -> dict[str, Tensor]:
    return {**_tensors(), **init_normalised(_tensors())}


def _grads(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(t.shape, dtype=t.dtype, generator=generator) for n, t in _tensors().items()}


def test_it_is_torch_adam_on_the_named_tensors() -> None:
    state = _state()
    params = {name: value.clone().requires_grad_() for name, value in _tensors().items()}
    adam = torch.optim.Adam(params.values(), lr=0.1, betas=META_BETAS, eps=0.0)
    for seed in range(5):
        grads = _grads(seed)
        for name, param in params.items():
            param.grad = grads[name].clone()
        normalised_step(state, grads, 0.1)  # overwrites them
        adam.step()
    for name, param in params.items():
        torch.testing.assert_close(state[name], param.detach(), rtol=1e-12, atol=1e-12)


@given(exponent=st.floats(-12, 12))
@settings(deadline=None, max_examples=25)
def test_the_scale_of_the_meta_gradient_does_not_matter(exponent: float) -> None:
    one, other = _state(), _state()
    for seed in range(3):
        normalised_step(one, _grads(seed), 0.1)
        normalised_step(other, _grads(seed, 10**exponent), 0.1)
    torch.testing.assert_close(one["b"], other["b"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_a_non_finite_meta_gradient_is_skipped_and_counted(bad: float) -> None:
    state, clean = _state(), _state()
    for seed in range(4):
        normalised_step(clean, _grads(seed), 0.1)
        normalised_step(state, _grads(seed), 0.1)
        broken = _grads(seed + 100)
        broken["b"][1, 0] = bad
        normalised_step(state, broken, 0.1)
    assert state["skipped"] == 4
    assert clean["skipped"] == 0
    assert torch.equal(state["a"], clean["a"])
    assert torch.equal(state["b"], clean["b"])


def test_a_first_meta_gradient_that_is_not_finite_does_no_harm() -> None:
    state = _state()
    normalised_step(state, {name: torch.full_like(value, math.nan) for name, value in _tensors().items()}, 0.1)
    assert torch.equal(state["a"], _state()["a"])
    normalised_step(state, _grads(0), 0.1)
    torch.testing.assert_close(state["a"].abs(), torch.full_like(state["a"], 0.1))


def test_a_zero_meta_gradient_moves_nothing() -> None:
    state = _state()
    normalised_step(state, {name: torch.zeros_like(value) for name, value in _tensors().items()}, 0.1)
    assert torch.equal(state["b"], _state()["b"])
    normalised_step(state, _grads(0), 0.1)
    before = {name: value.clone() for name, value in state.items()}
    normalised_step(state, {name: torch.zeros_like(value) for name, value in _tensors().items()}, 0.1)
    assert all(torch.equal(value, before[name]) for name, value in state.items())


@pytest.mark.parametrize("size", [1e-10, 1e-17, 1e-20, 1e-22, 1e-24, 1e-40])
def test_a_gradient_whose_square_underflows_moves_nothing_far(size: float) -> None:
    state = {"a": torch.zeros(3), **init_normalised({"a": torch.zeros(3)})}
    for _ in range(3):
        normalised_step(state, {"a": torch.full((3,), size)}, 0.01)
    assert float(state["a"].abs().max()) <= 0.0301
