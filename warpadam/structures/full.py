# P is a dense matrix over all elements, or over consecutive blocks of them: the most P can be, for small tensors. The
# blocks are as equal as possible, and what the last one lacks is padded with zeros that never move.
"""Dense, block-diagonal P."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from warpadam.structures.base import Distortion, Factors
from warpadam.structures.measures import Measures, measure_matrix


@final
@dataclass(frozen=True, slots=True)
class FullDistortion(Distortion):
    """Q = M g for each consecutive block of g.

    Attributes:
        elements: Size of the tensor.
        max_block: Most elements of one block.

    Factor ``blocks``: blocks x length x length.

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
        return {"blocks": torch.eye(length, dtype=dtype, device=device).repeat(blocks, 1, 1)}

    @override
    def apply(self, factors: Mapping[str, Tensor], grad: Tensor) -> Tensor:
        return (factors["blocks"] @ grad.unsqueeze(-1)).squeeze(-1)

    @override
    def apply_transpose(self, factors: Mapping[str, Tensor], update: Tensor) -> Tensor:
        return (factors["blocks"].mT @ update.unsqueeze(-1)).squeeze(-1)

    @override
    def pullback(self, factors: Mapping[str, Tensor], left: Tensor, right: Tensor) -> Factors:
        return {"blocks": left.unsqueeze(-1) * right.unsqueeze(-2)}

    @override
    def settle(self, factors: Mapping[str, Tensor], p_decay: float) -> None:
        if p_decay:
            factors["blocks"].mul_(1 - p_decay).diagonal(dim1=-2, dim2=-1).add_(p_decay)

    @override
    def measure(self, factors: Mapping[str, Tensor]) -> dict[str, Measures]:
        return {"blocks": measure_matrix(factors["blocks"])}
