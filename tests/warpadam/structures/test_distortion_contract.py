"""One contract for every structure, a linear map given by factors.

The map is checked against its dense matrix, and its pullback against autograd through that matrix.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from warpadam.structures import (
    DiagonalDistortion,
    Distortion,
    Factors,
    FullDistortion,
    KroneckerDistortion,
    LowRankDistortion,
)
from warpadam.structures.measures import product

FLOAT64 = torch.float64
CPU = torch.device("cpu")


def _randn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


class DistortionContract:
    """What every structure must do; a subclass gives one, the parameter's shape, and its dense matrix."""

    distortion: Distortion
    shape: tuple[int, ...]

    def dense(self, factors: Factors) -> Tensor:
        raise NotImplementedError

    def factors(self, seed: int) -> Factors:
        start = self.distortion.init_factors(FLOAT64, CPU)
        return {name: value + 0.3 * _randn(tuple(value.shape), seed + 1) for name, value in start.items()}

    def tensor(self, seed: int) -> Tensor:
        """A random tensor in the layout."""
        return self.distortion.to_layout(_randn(self.shape, seed))

    def test_starts_at_the_exact_identity(self) -> None:
        factors = self.distortion.init_factors(FLOAT64, CPU)
        grad = self.tensor(0)
        assert torch.equal(self.distortion.apply(factors, grad), grad)
        assert torch.equal(self.distortion.apply_transpose(factors, grad.clone()), grad)

    def test_has_the_dtype_it_is_asked_for(self) -> None:
        assert {f.dtype for f in self.distortion.init_factors(torch.float32, CPU).values()} <= {torch.float32}

    def test_init_is_reproducible_and_leaves_the_global_generator_alone(self) -> None:
        before = torch.get_rng_state()
        first = self.distortion.init_factors(FLOAT64, CPU)
        second = self.distortion.init_factors(FLOAT64, CPU)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(first[name], second[name]) for name in first)

    @pytest.mark.parametrize("seed", range(0, 50, 10))
    def test_apply_is_the_dense_matrix(self, seed: int) -> None:
        factors, grad = self.factors(seed), self.tensor(seed)
        matrix = self.dense(factors)
        mapped = self.distortion.apply(factors, grad).reshape(-1)
        transposed = self.distortion.apply_transpose(factors, grad.clone()).reshape(-1)
        torch.testing.assert_close(mapped, matrix @ grad.reshape(-1), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(transposed, matrix.mT @ grad.reshape(-1), rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("seed", range(0, 50, 10))
    def test_pullback_is_autograd_through_the_dense_matrix(self, seed: int) -> None:
        factors = {name: value.requires_grad_() for name, value in self.factors(seed).items()}
        left, right = self.tensor(seed + 2), self.tensor(seed + 3)
        inner = left.reshape(-1) @ self.dense(factors) @ right.reshape(-1)
        expected = torch.autograd.grad(inner, list(factors.values()))
        with torch.no_grad():
            pulled = self.distortion.pullback(factors, left, right)
        assert list(pulled) == list(factors)
        for name, gradient in zip(factors, expected, strict=True):
            torch.testing.assert_close(pulled[name], gradient, rtol=1e-10, atol=1e-12)

    def test_settle_without_decay_leaves_the_matrix(self) -> None:
        factors = self.factors(5)
        before = self.dense(factors).clone()
        self.distortion.settle(factors, 0.0)
        torch.testing.assert_close(self.dense(factors), before, rtol=1e-12, atol=1e-12)

    def test_settle_pulls_towards_the_identity(self) -> None:
        factors = self.factors(6)
        identity = torch.eye(len(self.dense(factors)), dtype=FLOAT64)
        before = (self.dense(factors) - identity).norm()
        self.distortion.settle(factors, 0.2)
        assert (self.dense(factors) - identity).norm() < before
        self.distortion.settle(factors, 1.0)
        torch.testing.assert_close(self.dense(factors), identity, rtol=1e-12, atol=1e-12)

    def test_settle_moves_p_in_place(self) -> None:
        factors = self.factors(7)
        tensors = dict(factors)
        self.distortion.settle(factors, 0.1)
        assert all(tensors[name] is factors[name] for name in tensors)

    @pytest.mark.parametrize("seed", range(0, 50, 10))
    def test_measures_are_those_of_the_dense_matrix(self, seed: int) -> None:
        factors = self.factors(seed)
        matrix, measured = self.dense(factors), product(self.distortion.measure(factors).values())
        # a padded block has coordinates that no element uses: there the dense matrix is not all of P
        if matrix.shape[0] == math.prod(self.distortion.layout):
            identity = torch.eye(len(matrix), dtype=FLOAT64)
            assert measured.norm == pytest.approx(float(matrix.norm() / identity.norm()), rel=1e-9)
            assert measured.distance == pytest.approx(float((matrix - identity).norm() / identity.norm()), rel=1e-9)
            assert measured.condition == pytest.approx(float(torch.linalg.cond(matrix)), rel=1e-7)
        start = product(self.distortion.measure(self.distortion.init_factors(FLOAT64, CPU)).values())
        assert (start.norm, start.distance, start.condition) == pytest.approx((1, 0, 1), abs=1e-7)

    def test_each_side_is_a_square_factor_whose_covariance_follows_the_gradient(self) -> None:
        sides = self.distortion.sides
        state = self.distortion.init_sides(FLOAT64, CPU)
        assert list(state) == [*self.distortion.init_factors(FLOAT64, CPU), *sides.values()]
        before = {name: value.clone() for name, value in state.items()}
        self.distortion.follow(state, self.tensor(4), 0.75)
        for side, covariance in sides.items():
            assert state[side].shape == state[covariance].shape
            assert not before[covariance].any()
            trace = state[covariance].diagonal(dim1=-2, dim2=-1).sum()
            torch.testing.assert_close(trace, 0.25 * self.tensor(4).square().sum())
        assert all(torch.equal(state[name], before[name]) for name in state if name not in sides.values())

    def test_size_counts_the_elements_of_the_parameter(self) -> None:
        assert self.distortion.size == math.prod(self.shape)

    def test_layout_round_trip(self) -> None:
        tensor = _randn(self.shape, 8)
        layout = self.distortion.to_layout(tensor)
        assert tuple(layout.shape) == self.distortion.layout
        assert torch.equal(self.distortion.from_layout(layout, self.shape), tensor)

    def test_layout_takes_any_strides(self) -> None:
        tensor = _randn(self.shape, 9)
        flipped = tensor.permute(*reversed(range(tensor.ndim))).contiguous().permute(*reversed(range(tensor.ndim)))
        assert torch.equal(self.distortion.to_layout(flipped), self.distortion.to_layout(tensor))


class TestDiagonal(DistortionContract):
    distortion = DiagonalDistortion((3, 4))
    shape = (3, 4)

    def dense(self, factors: Factors) -> Tensor:
        return torch.diag(factors["diagonal"].reshape(-1))


class TestLowRank(DistortionContract):
    distortion = LowRankDistortion(4, 3, rank=2)
    shape = (4, 3)

    def dense(self, factors: Factors) -> Tensor:
        on_rows = torch.eye(4, dtype=FLOAT64) + factors["left"] @ factors["right"].mT
        return torch.kron(on_rows, torch.eye(3, dtype=FLOAT64))


class TestKronecker(DistortionContract):
    distortion = KroneckerDistortion((3, 8), row_blocks=1, column_blocks=1)
    shape = (3, 2, 2, 2)

    def dense(self, factors: Factors) -> Tensor:
        return torch.kron(factors["row_factor"], factors["column_factor"])


class TestKroneckerRowsOnly(DistortionContract):
    distortion = KroneckerDistortion((3, 5), row_blocks=1, column_blocks=0)
    shape = (3, 5)

    def dense(self, factors: Factors) -> Tensor:
        return torch.kron(factors["row_factor"], torch.eye(5, dtype=FLOAT64))


class TestKroneckerColumnsOnly(DistortionContract):
    distortion = KroneckerDistortion((5, 3), row_blocks=0, column_blocks=1)
    shape = (5, 3)

    def dense(self, factors: Factors) -> Tensor:
        return torch.kron(torch.eye(5, dtype=FLOAT64), factors["column_factor"])


class TestKroneckerBlocks(DistortionContract):
    distortion = KroneckerDistortion((4, 6), row_blocks=2, column_blocks=3)
    shape = (4, 3, 2)

    def dense(self, factors: Factors) -> Tensor:
        row, column = (torch.block_diag(*factors[name]) for name in ("row_factor", "column_factor"))  # type: ignore[no-untyped-call]
        return torch.kron(row, column)


class TestKroneckerPaddedBlocks(DistortionContract):
    distortion = KroneckerDistortion((5, 7), row_blocks=2, column_blocks=3)
    shape = (5, 7)

    def dense(self, factors: Factors) -> Tensor:
        row, column = (torch.block_diag(*factors[name]) for name in ("row_factor", "column_factor"))  # type: ignore[no-untyped-call]
        return torch.kron(row, column)


class TestKroneckerOneSideInBlocks(DistortionContract):
    distortion = KroneckerDistortion((5, 7), row_blocks=0, column_blocks=2)
    shape = (5, 7)

    def dense(self, factors: Factors) -> Tensor:
        return torch.kron(torch.eye(5, dtype=FLOAT64), torch.block_diag(*factors["column_factor"]))  # type: ignore[no-untyped-call]


class TestFull(DistortionContract):
    distortion = FullDistortion(12, max_block=12)
    shape = (3, 4)

    def dense(self, factors: Factors) -> Tensor:
        return factors["blocks"][0]


class TestFullPaddedBlocks(DistortionContract):
    distortion = FullDistortion(10, max_block=4)
    shape = (5, 2)

    def dense(self, factors: Factors) -> Tensor:
        dense: Tensor = torch.block_diag(*factors["blocks"])  # type: ignore[no-untyped-call]
        return dense


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_starts_with_exactly_one_zero_factor(rank: int) -> None:
    factors = LowRankDistortion(4, 3, rank).init_factors(FLOAT64, CPU)
    assert torch.count_nonzero(factors["left"]) == 0
    assert torch.count_nonzero(factors["right"]) == factors["right"].numel()


def test_low_rank_can_leave_its_start() -> None:
    distortion = LowRankDistortion(4, 3, rank=2)
    pulled = distortion.pullback(distortion.init_factors(FLOAT64, CPU), _randn((4, 3), 1), _randn((4, 3), 2))
    assert torch.count_nonzero(pulled["left"]) == 8


def test_kronecker_settle_gives_both_factors_one_size() -> None:
    distortion = KroneckerDistortion((4, 9), row_blocks=1, column_blocks=1)
    factors = {"row_factor": 50 * torch.eye(4, dtype=FLOAT64), "column_factor": torch.eye(9, dtype=FLOAT64) / 10}
    distortion.settle(factors, 0.0)
    expected = 5**0.5
    torch.testing.assert_close(factors["row_factor"], expected * torch.eye(4, dtype=FLOAT64))
    torch.testing.assert_close(factors["column_factor"], expected * torch.eye(9, dtype=FLOAT64))


def test_kronecker_settle_survives_a_zero_factor() -> None:
    distortion = KroneckerDistortion((2, 2), row_blocks=1, column_blocks=1)
    factors = {"row_factor": torch.zeros(2, 2), "column_factor": torch.eye(2)}
    distortion.settle(factors, 0.0)
    assert all(factor.isfinite().all() for factor in factors.values())
