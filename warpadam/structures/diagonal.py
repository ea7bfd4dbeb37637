"""Diagonal P = diag(d): one number for each element.

The cheapest structure, and the fallback for vectors and scalars. Placed before the moments it is a negative control:
Adam divides a constant positive d out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.structures.base import Distortion, Factors
from warpadam.structures.measures import Measures, measure_diagonal


@final
@dataclass(frozen=True, slots=True)
class DiagonalDistortion(Distortion):
    """q = d * g.

    Attributes:
        shape: The layout; ``diagonal`` has the same shape.

    >>> structure = DiagonalDistortion((2,))
    >>> structure.apply({"diagonal": torch.tensor([2.0, 3.0])}, torch.ones(2))
    tensor([2., 3.])
    """

    shape: tuple[int, ...]

    @property
    @override
    def layout(self) -> tuple[int, ...]:
        return self.shape

    @property
    @override
    def mixes(self) -> bool:
        return False

    @override
    def padded_to(self, layout: tuple[int, ...]) -> DiagonalDistortion:
        return DiagonalDistortion(layout)

    @override
    def init_factors(self, dtype: torch.dtype, device: torch.device) -> Factors:
        return {"diagonal": torch.ones(self.shape, dtype=dtype, device=device)}

    @override
    def apply(self, factors: Mapping[str, Tensor], grad: Tensor) -> Tensor:
        return factors["diagonal"] * grad

    @override
    def apply_transpose(self, factors: Mapping[str, Tensor], update: Tensor) -> Tensor:
        return update.mul_(factors["diagonal"])

    @override
    def pullback(self, factors: Mapping[str, Tensor], left: Tensor, right: Tensor) -> Factors:
        return {"diagonal": left * right}

    @override
    def settle(self, factors: Mapping[str, Tensor], p_decay: float) -> None:
        if p_decay:
            factors["diagonal"].mul_(1 - p_decay).add_(p_decay)

    @override
    def measure(self, factors: Mapping[str, Tensor]) -> dict[str, Measures]:
        return {"diagonal": measure_diagonal(factors["diagonal"])}
