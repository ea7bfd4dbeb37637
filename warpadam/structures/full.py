"""Full P: a dense matrix over all elements of a tensor, or over consecutive blocks of them.

This is the most general P, for small tensors. The blocks are as equal as possible. The last one is padded with zeros,
which never move.
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

BLOCKS: Final = "blocks"


@final
@dataclass(frozen=True, slots=True)
class FullDistortion(Distortion):
    """Q = M g for each consecutive block of g.

    Attributes:
        elements: Size of the tensor.
        max_block: Most elements of one block.

    The factor ``blocks`` has the shape blocks x length x length.

    >>> FullDistortion(elements=10, max_block=4).layout
    (3, 4)
    """

    elements: int
    max_block: int

    @property
    @override
    def layout(self) -> tuple[int, ...]:
        blocks = max(1, math.ceil(self.elements / self.max_block))
        return (blocks, math.ceil(self.elements / blocks))

    @property
    @override
    def scale_shape(self) -> tuple[int, ...]:
        return self.layout

    @override
    def to_layout(self, tensor: Tensor) -> Tensor:
        blocks, length = self.layout
        flat = tensor.reshape(-1)
        missing = blocks * length - self.elements
        return (functional.pad(flat, (0, missing)) if missing else flat).view(blocks, length)

    @override
    def from_layout(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        return tensor.reshape(-1)[: self.elements].view(shape)

    @override
    def init_factors(self, dtype: torch.dtype, device: torch.device) -> Factors:
        blocks, length = self.layout
        return {BLOCKS: torch.eye(length, dtype=dtype, device=device).repeat(blocks, 1, 1)}

    @override
    def apply(self, factors: Mapping[str, Tensor], grad: Tensor) -> Tensor:
        return (factors[BLOCKS] @ grad.unsqueeze(-1)).squeeze(-1)

    @override
    def apply_transpose(self, factors: Mapping[str, Tensor], update: Tensor) -> Tensor:
        return (factors[BLOCKS].mT @ update.unsqueeze(-1)).squeeze(-1)

    @override
    def pullback(self, factors: Mapping[str, Tensor], left: Tensor, right: Tensor) -> Factors:
        return {BLOCKS: left.unsqueeze(-1) * right.unsqueeze(-2)}

    @override
    def settle(self, factors: Mapping[str, Tensor], p_decay: float) -> None:
        if p_decay:
            factors[BLOCKS].mul_(1 - p_decay).diagonal(dim1=-2, dim2=-1).add_(p_decay)

    @property
    @override
    def sides(self) -> dict[str, str]:
        return {BLOCKS: "block_covariances"}

    @property
    @override
    def size(self) -> int:
        return self.elements

    @override
    def follow(self, state: Mapping[str, Tensor], grad: Tensor, cov_beta: float) -> None:
        outer = grad.unsqueeze(-1) * grad.unsqueeze(-2)
        state["block_covariances"].lerp_(outer, 1 - cov_beta)

    @override
    def reordered(self, tensor: Tensor, side: str, order: Tensor) -> Tensor:
        return tensor.gather(-1, order)

    @override
    def measure(self, factors: Mapping[str, Tensor]) -> dict[str, Measures]:
        return {BLOCKS: measure_matrix(factors[BLOCKS])}
