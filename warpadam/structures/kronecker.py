"""Kronecker P: Q = A G B^T, with one square factor for the rows and one for the columns.

``structures/__init__.py`` decides which axes are mixed, and which in blocks. The optimizer sees only the product
A (x) B, so a scale could move from one factor to the other. ``settle`` keeps the two balanced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from torch.nn import functional
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
        shape: (rows, columns), or (elements,) for a vector, where neither axis is mixed.
        row_blocks: Blocks of the ``row_factor`` A: 0 if rows are not mixed, 1 if A is rows x rows. With more, A is
            block-diagonal, and the factor is blocks x length x length.
        column_blocks: The same for the ``column_factor`` B.

    In the layout an axis is padded with zeros to a multiple of its blocks.

    Cost: rows columns (rows + columns) multiply-adds for one application, less with blocks.

    >>> KroneckerDistortion((5, 7), row_blocks=1, column_blocks=2).layout
    (5, 8)
    """

    shape: tuple[int, ...]
    row_blocks: int
    column_blocks: int

    @property
    @override
    def layout(self) -> tuple[int, ...]:
        if self.row_blocks < 2 and self.column_blocks < 2:
            return self.shape
        blocks = (max(1, self.row_blocks), max(1, self.column_blocks))
        return tuple(math.ceil(length / count) * count for length, count in zip(self.shape, blocks, strict=True))

    @property
    @override
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    @override
    def mixes(self) -> bool:
        return bool(self.sides)

    @override
    def padded_to(self, layout: tuple[int, ...]) -> KroneckerDistortion | None:
        whole = self.row_blocks < 2 and self.column_blocks < 2
        return KroneckerDistortion(layout, self.row_blocks, self.column_blocks) if whole else None

    @override
    def to_layout(self, tensor: Tensor) -> Tensor:
        matrix = tensor.reshape(self.shape)
        if self.layout == self.shape:
            return matrix
        rows, columns = (after - before for before, after in zip(self.shape, self.layout, strict=True))
        return functional.pad(matrix, (0, columns, 0, rows))

    @override
    def from_layout(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.layout != self.shape:
            tensor = tensor[: self.shape[0], : self.shape[1]]
        return tensor.view(shape)

    @override
    def init_factors(self, dtype: torch.dtype, device: torch.device) -> Factors:
        factors: Factors = {}
        for name, axis, blocks in ((ROW, 0, self.row_blocks), (COLUMN, 1, self.column_blocks)):
            if blocks:
                identity = torch.eye(self.layout[axis] // blocks, dtype=dtype, device=device)
                factors[name] = identity if blocks == 1 else identity.repeat(blocks, 1, 1)
        return factors

    @override
    def apply(self, factors: Mapping[str, Tensor], grad: Tensor) -> Tensor:
        if self.row_blocks:
            grad = _mixed(factors[ROW], grad, self.row_blocks)
        return _mixed_columns(grad, factors[COLUMN], self.column_blocks) if self.column_blocks else grad

    @override
    def apply_transpose(self, factors: Mapping[str, Tensor], update: Tensor) -> Tensor:
        if self.row_blocks:
            update = _mixed(factors[ROW].mT, update, self.row_blocks)
        return _mixed_columns(update, factors[COLUMN].mT, self.column_blocks) if self.column_blocks else update

    @override
    def pullback(self, factors: Mapping[str, Tensor], left: Tensor, right: Tensor) -> Factors:
        pulled: Factors = {}
        if self.row_blocks:
            mixed = _mixed_columns(left, factors[COLUMN].mT, self.column_blocks) if self.column_blocks else left
            pulled[ROW] = _outer(mixed, right, self.row_blocks)
        if self.column_blocks:
            mixed = _mixed(factors[ROW], right, self.row_blocks) if self.row_blocks else right
            pulled[COLUMN] = _outer(left.mT, mixed.mT, self.column_blocks)
        return pulled

    @override
    def settle(self, factors: Mapping[str, Tensor], p_decay: float) -> None:
        if p_decay:
            for factor in factors.values():
                factor.mul_(1 - p_decay).diagonal(dim1=-2, dim2=-1).add_(p_decay)
        if self.row_blocks and self.column_blocks:
            self._balance(factors[ROW], factors[COLUMN])

    @override
    def measure(self, factors: Mapping[str, Tensor]) -> dict[str, Measures]:
        return {name: measure_matrix(factors[name]) for name in self.sides}

    @property
    @override
    def sides(self) -> dict[str, str]:
        rows = {ROW: "row_covariance"} if self.row_blocks else {}
        return rows | ({COLUMN: "column_covariance"} if self.column_blocks else {})

    @override
    def follow(self, state: Mapping[str, Tensor], grad: Tensor, cov_beta: float) -> None:
        for side, name in self.sides.items():
            vectors = grad if side == ROW else grad.mT
            blocks = self.row_blocks if side == ROW else self.column_blocks
            if blocks > 1:
                state[name].mul_(cov_beta).add_(_outer(vectors, vectors, blocks), alpha=1 - cov_beta)
                continue
            add = Tensor.addmm_ if grad.ndim == 2 else Tensor.baddbmm_
            add(state[name], vectors, vectors.mT, beta=cov_beta, alpha=1 - cov_beta)

    @override
    def reordered(self, tensor: Tensor, side: str, order: Tensor) -> Tensor:
        axis, blocks = (0, self.row_blocks) if side == ROW else (1, self.column_blocks)
        if blocks > 1:  # count the positions from the start of the axis
            starts = torch.arange(blocks, device=order.device)[:, None] * order.shape[-1]
            order = (order + starts).flatten(-2)
        if tensor.ndim > order.ndim:
            dim = axis - 2
            return tensor.gather(dim, order.unsqueeze(-3 - dim).expand_as(tensor))
        parts = list(tensor.split_with_sizes(list(self.layout), -1))
        parts[axis] = parts[axis].gather(-1, order)
        return torch.cat(parts, -1)

    def _balance(self, row: Tensor, column: Tensor) -> None:
        """Give both factors the same root mean square eigenvalue. A (x) B does not change."""
        row_size, column_size = _mean_square(row, self.row_blocks), _mean_square(column, self.column_blocks)
        scale = (column_size / row_size) ** 0.25
        scale = torch.where(scale.isfinite() & (scale > 0), scale, 1.0)
        row.mul_(scale if self.row_blocks == 1 else scale[..., None])
        column.div_(scale if self.column_blocks == 1 else scale[..., None])


def _mixed(factor: Tensor, matrix: Tensor, blocks: int) -> Tensor:
    """Return A X, where A may be block-diagonal."""
    if blocks == 1:
        return _product(factor, matrix)
    return (factor @ _split(matrix, blocks)).flatten(-3, -2)


def _mixed_columns(matrix: Tensor, factor: Tensor, blocks: int) -> Tensor:
    """Return X B^T, where B may be block-diagonal."""
    if blocks == 1:
        return _product(matrix, factor.mT)
    return _mixed(factor, matrix.mT, blocks).mT.contiguous()


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return X Y. For stacked matrices ``bmm`` takes half the time of ``@`` while they are small."""
    return torch.bmm(left, right) if left.ndim == right.ndim == 3 else left @ right


def _outer(left: Tensor, right: Tensor, blocks: int) -> Tensor:
    """Return X Y^T, or the blocks on its diagonal."""
    if blocks == 1:
        return left @ right.mT
    return _split(left, blocks) @ _split(right, blocks).mT


def _split(matrix: Tensor, blocks: int) -> Tensor:
    """Cut the rows into blocks, which get a dimension of their own."""
    return matrix.reshape(*matrix.shape[:-2], blocks, matrix.shape[-2] // blocks, matrix.shape[-1])


def _mean_square(factor: Tensor, blocks: int) -> Tensor:
    """Return ||A||^2 over the length of A, with two dimensions of length 1 at the end."""
    size = factor.square().mean((-2, -1), keepdim=True) * factor.shape[-1]
    return size if blocks == 1 else size.mean(-3)
