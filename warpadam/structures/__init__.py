"""The structures of P, one in each file, and the choice of one for a tensor.

The fallbacks are all here: a vector has no axes to mix, and a long axis is mixed in blocks.
"""

from __future__ import annotations

import math
from typing import Final

from warpadam.config import Structure
from warpadam.structures.base import Distortion, Factors, matrix_shape
from warpadam.structures.diagonal import DiagonalDistortion
from warpadam.structures.full import FullDistortion
from warpadam.structures.kronecker import KroneckerDistortion
from warpadam.structures.low_rank import LowRankDistortion

_MAX_BLOCKS: Final = 16
"""An axis that needs more blocks, such as that of a large vocabulary, is not mixed: its decompositions would take most
of the time of a step."""

_SHORT: Final = 128
"""Blocks of a long axis may have this length, whatever the other axis has. Beyond it, blocks that are longer than the
other axis would take more memory than the tensor."""

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

    Vectors, scalars and empty tensors get a ``diagonal`` P. Under ``full`` only empty tensors do.

    Args:
        structure: A value of :class:`~warpadam.config.Structure`.
        shape: The parameter's shape.
        rank: Rank of ``low_rank``, at most the rows.
        block_size: Most elements of a block of ``full``.
        max_dim: Longest axis that ``kronecker`` mixes as a whole.

    >>> make_distortion("kronecker", (8, 3, 5, 5), rank=4, block_size=64, max_dim=32)
    KroneckerDistortion(shape=(8, 75), row_blocks=1, column_blocks=3)
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
        if kronecker.mixes:
            return kronecker
    return DiagonalDistortion(layout)


def make_kronecker(shape: tuple[int, ...], *, max_dim: int) -> KroneckerDistortion:
    """Return the Kronecker structure for a tensor of ``shape``. If it mixes no axis, it is always the identity.

    An axis longer than ``max_dim`` is mixed in equal blocks of at most ``max_dim``, and not much longer than the other
    axis. If that takes more than ``_MAX_BLOCKS``, it is not mixed, unless the other axis needs as many.
    """
    layout = matrix_shape(shape)
    if len(layout) < 2 or 0 in layout:
        return KroneckerDistortion(layout, row_blocks=0, column_blocks=0)
    blocks = [_blocks(length, other, max_dim) for length, other in zip(layout, layout[::-1], strict=True)]
    most = max(_MAX_BLOCKS, min(blocks))
    row_blocks, column_blocks = (count if count <= most else 0 for count in blocks)
    return KroneckerDistortion(layout, row_blocks=row_blocks, column_blocks=column_blocks)


def _blocks(length: int, other: int, max_dim: int) -> int:
    """Return in how many blocks an axis is mixed."""
    fewest = math.ceil(length / max_dim)
    if fewest == 1:
        return 1
    return max(fewest, min(_MAX_BLOCKS, math.ceil(length / max(other, _SHORT))))
