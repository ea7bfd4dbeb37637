"""The structures of P, one in each file, and the choice of one for a tensor.

The fallbacks are all here: a vector has no axes to mix, and a matrix whose axes are all too long has none left.
"""

from __future__ import annotations

import math

from warpadam.config import Structure
from warpadam.structures.base import Distortion, Factors, matrix_shape
from warpadam.structures.diagonal import DiagonalDistortion
from warpadam.structures.full import FullDistortion
from warpadam.structures.kronecker import KroneckerDistortion
from warpadam.structures.low_rank import LowRankDistortion

__all__ = [
    "DiagonalDistortion",
    "Distortion",
    "Factors",
    "FullDistortion",
    "KroneckerDistortion",
    "LowRankDistortion",
    "make_distortion",
    "make_kronecker",
    "matrix_shape",
]


def make_distortion(structure: str, shape: tuple[int, ...], *, rank: int, block_size: int, max_dim: int) -> Distortion:
    """Return the structure of P for a tensor of ``shape``.

    Vectors, scalars and empty tensors get a ``diagonal`` P, and so does a matrix with both axes over ``max_dim`` under
    ``kronecker``. Under ``full`` only empty tensors do.

    Args:
        structure: A value of :class:`~warpadam.config.Structure`.
        shape: The parameter's shape.
        rank: Rank of ``low_rank``, at most the rows.
        block_size: Most elements of a block of ``full``.
        max_dim: Longest axis that ``kronecker`` mixes.

    >>> make_distortion("kronecker", (8, 3, 5, 5), rank=4, block_size=64, max_dim=32)
    KroneckerDistortion(shape=(8, 75), mix_rows=True, mix_columns=False)
    >>> make_distortion("kronecker", (8,), rank=4, block_size=64, max_dim=32)
    DiagonalDistortion(shape=(8,))
    """
    layout = matrix_shape(shape)
    elements = math.prod(layout)
    if structure == Structure.FULL and elements:
        return FullDistortion(elements, block_size)
    if structure == Structure.LOW_RANK and len(layout) == 2 and elements:
        return LowRankDistortion(layout[0], layout[1], min(rank, layout[0]))
    if structure == Structure.KRONECKER:
        kronecker = make_kronecker(shape, max_dim=max_dim)
        if kronecker.mix_rows or kronecker.mix_columns:
            return kronecker
    return DiagonalDistortion(layout)


def make_kronecker(shape: tuple[int, ...], *, max_dim: int) -> KroneckerDistortion:
    """Return the Kronecker structure for a tensor of ``shape``. If it mixes no axis, it is always the identity."""
    layout = matrix_shape(shape)
    mixable = len(layout) == 2 and 0 not in layout
    return KroneckerDistortion(
        layout, mix_rows=mixable and layout[0] <= max_dim, mix_columns=mixable and layout[1] <= max_dim
    )
