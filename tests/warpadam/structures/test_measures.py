"""The numbers of a report: exact for short matrices, estimated for long ones, NaN or infinite for broken ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from warpadam.structures import KroneckerDistortion
from warpadam.structures.measures import EXACT_LENGTH, measure_diagonal, measure_matrix, product

FLOAT64 = torch.float64


def _with_singular_values(values: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (len(values), len(values))
    left, right = (torch.linalg.qr(torch.randn(shape, dtype=FLOAT64, generator=generator))[0] for _ in range(2))
    made: Tensor = left * values @ right.mT
    return made


@pytest.mark.parametrize("length", [EXACT_LENGTH, EXACT_LENGTH + 40])
def test_the_condition_of_a_long_matrix_is_estimated_closely_and_from_below(length: int) -> None:
    values = torch.logspace(-1, 1, length, dtype=FLOAT64)
    measured = measure_matrix(_with_singular_values(values))
    assert measured.condition <= 100 * (1 + 1e-9)
    assert measured.condition == pytest.approx(100, rel=1e-9 if length <= EXACT_LENGTH else 0.1)
    assert measured.mean_square == pytest.approx(float(values.square().mean()))


@pytest.mark.parametrize("length", [4, EXACT_LENGTH + 1])
def test_a_singular_matrix_has_an_infinite_condition(length: int) -> None:
    matrix = torch.eye(length)
    matrix[0, 0] = 0
    assert measure_matrix(matrix).condition == math.inf


@pytest.mark.parametrize("length", [4, EXACT_LENGTH + 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_matrix_that_is_not_finite_is_reported_not_raised(length: int, bad: float) -> None:
    matrix = torch.eye(length)
    matrix[1, 2] = bad
    assert math.isnan(measure_matrix(matrix).condition)


def test_nothing_is_the_identity() -> None:
    assert measure_diagonal(torch.ones(0)) == product([]) == measure_matrix(torch.eye(3))


def test_kronecker_multiplies_its_factors_and_an_axis_that_is_not_mixed_has_none() -> None:
    factors = {"row_factor": 2 * torch.eye(3), "column_factor": torch.tensor([[1.0, 0.0], [0.0, 0.25]])}
    both = KroneckerDistortion((3, 2), row_blocks=1, column_blocks=1).measure(factors)
    assert product(both.values()).condition == pytest.approx(4)
    assert product(both.values()).norm == pytest.approx(2 * math.sqrt((1 + 1 / 16) / 2))
    assert set(KroneckerDistortion((3, 2), row_blocks=1, column_blocks=0).measure(factors)) == {"row_factor"}
