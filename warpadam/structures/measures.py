"""Measures of a P: its size, its condition and its distance from the identity.

The measures of a Kronecker product are the products of its factors' measures, so no structure needs its dense matrix.
Only diagnostics use this file, never a step: everything is computed in fp64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import torch
from torch import Tensor

EXACT_LENGTH: Final = 512
"""For longer matrices the extreme singular values are estimated: decomposing 1024 x 1024 takes half a second."""

_ITERATIONS: Final = 30
"""Iterations of the power method. More help little: the error depends on the gap between singular values."""

_SEED: Final = 0


class Measures(NamedTuple):
    """Measures of a square matrix M of length N.

    Attributes:
        mean_square: Squared Frobenius norm over that of the identity, ||M||^2 / N.
        mean_diagonal: tr M / N.
        largest: Largest singular value.
        smallest: Smallest singular value.
    """

    mean_square: float
    mean_diagonal: float
    largest: float
    smallest: float

    @property
    def norm(self) -> float:
        """Frobenius norm, 1 for the identity."""
        return math.sqrt(self.mean_square)

    @property
    def condition(self) -> float:
        """Largest singular value over the smallest; infinite for a singular matrix."""
        return self.largest / self.smallest if self.smallest else math.inf

    @property
    def distance(self) -> float:
        """||M - I|| / ||I|| in the Frobenius norm."""
        return math.sqrt(max(self.mean_square - 2 * self.mean_diagonal + 1, 0.0))


def product(factors: Iterable[Measures]) -> Measures:
    """Return the measures of a Kronecker product, given those of its factors. Without factors: of the identity.

    >>> product([Measures(4.0, 2.0, 2.0, 2.0), Measures(1.0, 1.0, 1.0, 0.5)]).condition
    2.0
    """
    columns = list(zip(*factors, strict=True)) or [()] * len(Measures._fields)
    return Measures(*(math.prod(column, start=1.0) for column in columns))


def measure_diagonal(diagonal: Tensor) -> Measures:
    """Return the measures of a diagonal matrix, given its diagonal in any shape."""
    values = _exact(diagonal)
    if values.numel() == 0:
        return product([])
    sizes = values.abs()
    return Measures(float(values.square().mean()), float(values.mean()), float(sizes.max()), float(sizes.min()))


def measure_matrix(matrix: Tensor) -> Measures:
    """Return the measures of a square matrix, or of a block-diagonal one given as blocks x length x length.

    The extreme singular values are exact up to ``EXACT_LENGTH``. For longer matrices they come from power iterations
    and one LU decomposition, which never overstate the condition. They are NaN for a matrix that is not finite.
    """
    values = _exact(matrix)
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    mean_square, mean_diagonal = float(values.square().sum() / diagonal.numel()), float(diagonal.mean())
    if not math.isfinite(mean_square):
        return Measures(mean_square, mean_diagonal, math.nan, math.nan)
    if values.shape[-1] <= EXACT_LENGTH:
        singular = torch.linalg.svdvals(values)
        return Measures(mean_square, mean_diagonal, float(singular.max()), float(singular.min()))
    largest = _grown(values, lambda vector: values.mT @ (values @ vector))
    lower_upper, pivots, singular_at = torch.linalg.lu_factor_ex(values)
    if bool(singular_at.any()):
        return Measures(mean_square, mean_diagonal, largest, 0.0)

    def solve(vector: Tensor) -> Tensor:
        half = torch.linalg.lu_solve(lower_upper, pivots, vector, adjoint=True)
        solved: Tensor = torch.linalg.lu_solve(lower_upper, pivots, half)
        return solved

    return Measures(mean_square, mean_diagonal, largest, 1 / _grown(values, solve))


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _grown(matrix: Tensor, square: Callable[[Tensor], Tensor]) -> float:
    """Return the square root of the largest eigenvalue of a positive linear map, over all blocks."""
    generator = torch.Generator("cpu").manual_seed(_SEED)
    vector = torch.randn((*matrix.shape[:-1], 1), dtype=matrix.dtype, device="cpu", generator=generator)
    for _ in range(_ITERATIONS):
        vector = square(vector / vector.norm(dim=-2, keepdim=True))
    return float(vector.norm(dim=-2).max().sqrt())
