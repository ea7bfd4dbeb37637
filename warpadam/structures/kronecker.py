"""Kronecker P: Q = A G B^T, with one square factor for the rows and one for the columns.

An axis longer than ``max_dim`` has no factor and is not mixed; ``structures/__init__.py`` decides this. The optimizer
sees only the product A (x) B, so a scale could move from one factor to the other. ``settle`` keeps the two balanced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.structures.base import Distortion, Factors
from warpadam.structures.measures import Measures, measure_matrix

ROW: Final = "row_factor"
COLUMN: Final = "column_factor"


@final
@dataclass(frozen=True, slots=True)
class KroneckerDistortion(Distortion):
    """Q = A G B^T for a matrix G (rows x columns).

    Attributes:
        shape: The layout: (rows, columns), or (elements,) for a vector, where neither axis is mixed.
        mix_rows: Whether there is a ``row_factor`` A, rows x rows.
        mix_columns: Whether there is a ``column_factor`` B, columns x columns.

    Cost: rows columns (rows + columns) multiply-adds for one application.
    """

    shape: tuple[int, ...]
    mix_rows: bool
    mix_columns: bool

    @property
    @override
    def layout(self) -> tuple[int, ...]:
        return self.shape

    @property
    @override
    def mixes(self) -> bool:
        return self.mix_rows or self.mix_columns

    @override
    def init_factors(self, dtype: torch.dtype, device: torch.device) -> Factors:
        factors: Factors = {}
        if self.mix_rows:
            factors[ROW] = torch.eye(self.shape[0], dtype=dtype, device=device)
        if self.mix_columns:
            factors[COLUMN] = torch.eye(self.shape[1], dtype=dtype, device=device)
        return factors

    @override
    def apply(self, factors: Mapping[str, Tensor], grad: Tensor) -> Tensor:
        if self.mix_rows:
            grad = factors[ROW] @ grad
        return grad @ factors[COLUMN].mT if self.mix_columns else grad

    @override
    def apply_transpose(self, factors: Mapping[str, Tensor], update: Tensor) -> Tensor:
        if self.mix_rows:
            update = factors[ROW].mT @ update
        return update @ factors[COLUMN] if self.mix_columns else update

    @override
    def pullback(self, factors: Mapping[str, Tensor], left: Tensor, right: Tensor) -> Factors:
        pulled: Factors = {}
        if self.mix_rows:
            pulled[ROW] = (left @ factors[COLUMN] if self.mix_columns else left) @ right.mT
        if self.mix_columns:
            pulled[COLUMN] = left.mT @ (factors[ROW] @ right if self.mix_rows else right)
        return pulled

    @override
    def settle(self, factors: Mapping[str, Tensor], p_decay: float) -> None:
        if p_decay:
            for factor in factors.values():
                factor.mul_(1 - p_decay).diagonal(dim1=-2, dim2=-1).add_(p_decay)
        if self.mix_rows and self.mix_columns:
            self._balance(factors[ROW], factors[COLUMN])

    @override
    def measure(self, factors: Mapping[str, Tensor]) -> dict[str, Measures]:
        return {name: measure_matrix(factors[name]) for name in self.sides}

    @property
    @override
    def sides(self) -> dict[str, str]:
        rows = {ROW: "row_covariance"} if self.mix_rows else {}
        return rows | ({COLUMN: "column_covariance"} if self.mix_columns else {})

    @override
    def follow(self, state: Mapping[str, Tensor], grad: Tensor, cov_beta: float) -> None:
        for side, name in self.sides.items():
            vectors = grad if side == ROW else grad.mT
            add = Tensor.addmm_ if grad.ndim == 2 else Tensor.baddbmm_
            add(state[name], vectors, vectors.mT, beta=cov_beta, alpha=1 - cov_beta)

    @override
    def reordered(self, tensor: Tensor, side: str, order: Tensor) -> Tensor:
        if tensor.ndim > order.ndim:
            dim = -2 if side == ROW else -1
            return tensor.gather(dim, order.unsqueeze(-3 - dim).expand_as(tensor))
        parts = list(tensor.split_with_sizes(list(self.shape), -1))
        axis = 0 if side == ROW else 1
        parts[axis] = parts[axis].gather(-1, order)
        return torch.cat(parts, -1)

    @staticmethod
    def _balance(row: Tensor, column: Tensor) -> None:
        """Give both factors the same root mean square eigenvalue. A (x) B does not change."""
        row_size = row.square().mean((-2, -1), keepdim=True) * row.shape[-1]
        column_size = column.square().mean((-2, -1), keepdim=True) * column.shape[-1]
        scale = (column_size / row_size) ** 0.25
        scale = torch.where(scale.isfinite() & (scale > 0), scale, 1.0)
        row.mul_(scale)
        column.div_(scale)
