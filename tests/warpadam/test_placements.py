"""The closed-form meta-gradient against autograd through one real optimizer step.

For every structure and placement; also what each placement does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from warpadam import Placement, WarpAdam
from warpadam.adam import Moments
from warpadam.placements import PlacedDistortion, meta_gradient, unwarp_direction, warp_gradient
from warpadam.structures import (
    DiagonalDistortion,
    Distortion,
    Factors,
    FullDistortion,
    KroneckerDistortion,
    LowRankDistortion,
    make_distortion,
)

FLOAT64 = torch.float64
LR, BETA1, BETA2, EPS = 0.05, 0.8, 0.9, 1e-8

SHAPES: list[tuple[str, tuple[int, ...], int]] = [
    ("diagonal", (3, 4), 64),
    ("low_rank", (4, 3), 64),
    ("kronecker", (3, 4), 64),
    ("kronecker", (3, 2, 2, 1), 64),
    ("kronecker", (3, 8), 4),  # in two blocks
    ("kronecker", (8, 3), 4),
    ("kronecker", (5,), 64),
    ("full", (3, 4), 64),
    ("full", (3, 4), 4),
    ("full", (), 4),
]
"""Structure, parameter shape, and the value of both max_dim and block_size."""


def _randn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, dtype=FLOAT64, generator=generator)


def _loss(theta: Tensor, target: Tensor) -> Tensor:
    return (theta - target).square().sum() + (2 * theta * target).sin().sum()


def _dense(distortion: Distortion, factors: Mapping[str, Tensor]) -> Tensor:
    """The matrix of P on the flattened layout, written independently of ``apply``."""
    if isinstance(distortion, DiagonalDistortion):
        return torch.diag(factors["diagonal"].reshape(-1))
    if isinstance(distortion, LowRankDistortion):
        on_rows = torch.eye(distortion.rows, dtype=FLOAT64) + factors["left"] @ factors["right"].mT
        return torch.kron(on_rows, torch.eye(distortion.columns, dtype=FLOAT64))
    if isinstance(distortion, KroneckerDistortion):
        rows, columns = distortion.layout
        row = factors.get("row_factor", torch.eye(rows, dtype=FLOAT64))
        column = factors.get("column_factor", torch.eye(columns, dtype=FLOAT64))
        return torch.kron(_whole(row), _whole(column))
    return _whole(factors["blocks"])


def _whole(factor: Tensor) -> Tensor:
    """The matrix that a factor stands for: itself, or its blocks on the diagonal."""
    whole: Tensor = torch.block_diag(*factor) if factor.ndim == 3 else factor  # type: ignore[no-untyped-call]
    return whole


class _RealStep:
    """One step of the real optimizer with a random P, seen from outside, and autograd's view of the same step."""

    def __init__(self, structure: str, placement: str, shape: tuple[int, ...], limit: int) -> None:
        generator = torch.Generator().manual_seed(7)
        limits: dict[str, Any] = {"rank": 2, "block_size": limit, "max_dim": limit}
        self.placement = placement
        self.distortion = make_distortion(structure, shape, **limits)
        self.param = torch.nn.Parameter(_randn(shape, generator))
        optimizer = WarpAdam(
            [self.param],
            LR,
            (BETA1, BETA2),
            EPS,
            structure=structure,
            placement=placement,
            learner="frozen",
            **limits,
        )
        start = optimizer.get_distortion(self.param)
        names = self.distortion.init_factors(FLOAT64, torch.device("cpu"))
        self.factors: Factors = {n: start[n] + 0.3 * _randn(tuple(start[n].shape), generator) for n in names}
        optimizer.set_distortion(self.param, self.factors)
        for _ in range(3):
            self.param.grad = _randn(shape, generator)
            optimizer.step()
        state = optimizer.state[self.param]
        exp_avg, exp_avg_sq = (self.distortion.to_layout(state[name]).clone() for name in ("exp_avg", "exp_avg_sq"))
        self.before = (self.param.detach().clone(), exp_avg, exp_avg_sq)
        self.grad = self._gradient(_randn(shape, generator))
        optimizer.step()
        exp_avg, exp_avg_sq = (self.distortion.to_layout(state[name]) for name in ("exp_avg", "exp_avg_sq"))
        self.moments = Moments(exp_avg, exp_avg_sq, 4, BETA1, BETA2, EPS)
        self.next_target = _randn(shape, generator)
        self.next_grad = self._gradient(self.next_target)

    def _gradient(self, target: Tensor) -> Tensor:
        self.param.grad = None
        _loss(self.param, target).backward()  # type: ignore[no-untyped-call]
        assert self.param.grad is not None
        return self.distortion.to_layout(self.param.grad.clone())

    def autograd(self) -> tuple[Tensor, Factors, Tensor]:
        """Return (dense dP, gradient of each factor, the parameter after the step)."""
        theta, exp_avg, exp_avg_sq = (part.reshape(-1) for part in self.before)
        factors = {name: value.clone().requires_grad_() for name, value in self.factors.items()}
        dense = _dense(self.distortion, factors)
        flat = self.grad.reshape(-1)
        q = flat if self.placement == "post" else dense @ flat
        exp_avg = BETA1 * exp_avg + (1 - BETA1) * q
        exp_avg_sq = BETA2 * exp_avg_sq + (1 - BETA2) * q**2
        u = exp_avg / (1 - BETA1**4) / ((exp_avg_sq / (1 - BETA2**4)).sqrt() + EPS)
        move = {"pre": u, "post": dense @ u, "sandwich": dense.mT @ u}[self.placement]
        after = theta - LR * move
        loss = _loss(after, self.next_target.reshape(-1))
        dense_grad, *factor_grads = torch.autograd.grad(loss, [dense, *factors.values()])
        return dense_grad, dict(zip(factors, factor_grads, strict=True)), after.detach()


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize(("structure", "shape", "limit"), SHAPES)
def test_meta_gradient_is_autograd_through_one_real_step(
    structure: str, placement: str, shape: tuple[int, ...], limit: int
) -> None:
    step = _RealStep(structure, placement, shape, limit)
    dense_grad, factor_grads, after = step.autograd()
    torch.testing.assert_close(step.param.detach().reshape(-1), after, rtol=1e-12, atol=1e-12)

    warp = PlacedDistortion(placement, step.distortion, step.factors)
    pulled = meta_gradient(warp, step.moments, step.grad, step.next_grad, LR)
    assert list(pulled) == list(factor_grads)
    for name, expected in factor_grads.items():
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(pulled[name], expected, rtol=1e-10, atol=1e-10)

    elements = dense_grad.shape[0]
    whole = PlacedDistortion(
        placement, FullDistortion(elements, elements), {"blocks": _dense(step.distortion, step.factors)[None]}
    )
    flat = step.moments._replace(
        exp_avg=step.moments.exp_avg.reshape(1, -1), exp_avg_sq=step.moments.exp_avg_sq.reshape(1, -1)
    )
    dense = meta_gradient(whole, flat, step.grad.reshape(1, -1), step.next_grad.reshape(1, -1), LR)["blocks"][0]
    torch.testing.assert_close(dense, dense_grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("placement", Placement)
def test_meta_gradient_is_proportional_to_lr_and_to_the_next_gradient(placement: str) -> None:
    step = _RealStep("kronecker", placement, (3, 4), 64)
    warp = PlacedDistortion(placement, step.distortion, step.factors)
    one = meta_gradient(warp, step.moments, step.grad, step.next_grad)
    many = meta_gradient(warp, step.moments, step.grad, 7 * step.next_grad, lr=0.5)
    for name, value in one.items():
        torch.testing.assert_close(many[name], 3.5 * value)


def test_meta_gradient_changes_none_of_its_inputs() -> None:
    step = _RealStep("kronecker", "sandwich", (3, 4), 64)
    inputs = [step.grad, step.next_grad, step.moments.exp_avg, step.moments.exp_avg_sq, *step.factors.values()]
    before = [tensor.clone() for tensor in inputs]
    meta_gradient(
        PlacedDistortion("sandwich", step.distortion, step.factors), step.moments, step.grad, step.next_grad, LR
    )
    assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True))


def test_each_placement_puts_p_where_it_says() -> None:
    distortion = FullDistortion(2, 2)
    factors = {"blocks": torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])}
    vector = torch.tensor([[1.0, 1.0]])
    mapped, back = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    expected = {"pre": (mapped, vector), "post": (vector, mapped), "sandwich": (mapped, back)}
    for placement, (warped, unwarped) in expected.items():
        warp = PlacedDistortion(placement, distortion, factors)
        assert torch.equal(warp_gradient(warp, vector), warped)
        assert torch.equal(unwarp_direction(warp, vector), unwarped)


@given(seed=st.integers(0, 10**6), structure=st.sampled_from(["diagonal", "low_rank", "kronecker", "full"]))
@settings(deadline=None, max_examples=50)
def test_a_sandwich_step_without_momentum_is_a_descent_direction(seed: int, structure: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    param = torch.nn.Parameter(_randn((4, 3), generator))
    optimizer = WarpAdam([param], 1.0, (0.0, 0.9), structure=structure, placement="sandwich", learner="frozen")
    for name, factor in optimizer.get_distortion(param).items():
        optimizer.set_distortion(param, {name: factor + _randn(tuple(factor.shape), generator)})
    for _ in range(2):
        before, param.grad = param.detach().clone(), _randn((4, 3), generator)
        optimizer.step()
        assert ((param.detach() - before) * param.grad).sum() < 0
