"""Low-rank P = I + U V^T, on the rows of a matrix.

U starts at zero and V at random. One zero factor makes P the identity and still gives U a gradient. If both were zero,
both gradients would stay zero.
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

_SEED: Final = 2409_04244
"""Seed of V's own generator: V is the same in every run and process, and torch's global generator is not touched."""


@final
@dataclass(frozen=True, slots=True)
class LowRankDistortion(Distortion):
    """Q = G + U (V^T G) for a matrix G (rows x columns).

    Attributes:
        rows: First axis of the layout.
        columns: Second axis of the layout.
        rank: Columns of ``left`` (U) and ``right`` (V), both of shape rows x rank. At most ``rows``.
    """

    rows: int
    columns: int
    rank: int

    @property
    @override
    def layout(self) -> tuple[int, ...]:
        return (self.rows, self.columns)

    @override
    def init_factors(self, dtype: torch.dtype, device: torch.device) -> Factors:
        generator = torch.Generator("cpu").manual_seed(_SEED)
        right = torch.randn(self.rows, self.rank, dtype=torch.float64, device="cpu", generator=generator)
        return {
            "left": torch.zeros(self.rows, self.rank, dtype=dtype, device=device),
            "right": right.mul_(self.rows**-0.5).to(dtype=dtype, device=device),
        }

    @override
    def apply(self, factors: Mapping[str, Tensor], grad: Tensor) -> Tensor:
        add = torch.addmm if grad.ndim == 2 else torch.baddbmm
        return add(grad, factors["left"], factors["right"].mT @ grad)

    @override
    def apply_transpose(self, factors: Mapping[str, Tensor], update: Tensor) -> Tensor:
        add = Tensor.addmm_ if update.ndim == 2 else Tensor.baddbmm_
        return add(update, factors["right"], factors["left"].mT @ update)

    @override
    def pullback(self, factors: Mapping[str, Tensor], left: Tensor, right: Tensor) -> Factors:
        return {
            "left": left @ (right.mT @ factors["right"]),
            "right": right @ (left.mT @ factors["left"]),
        }

    @override
    def settle(self, factors: Mapping[str, Tensor], p_decay: float) -> None:
        if p_decay:
            factors["left"].mul_(1 - p_decay)  # P - I is linear in U; V keeps its length, so U can still learn

    @override
    def measure(self, factors: Mapping[str, Tensor]) -> dict[str, Measures]:
        """Measure P on the span of U and V, at most 2 rank dimensions. Outside it P is the identity."""
        left, right = (factors[name].detach().to("cpu", torch.float64) for name in ("left", "right"))
        basis, _ = torch.linalg.qr(torch.cat((left, right), 1))
        inside = measure_matrix(torch.eye(basis.shape[1], device="cpu") + (basis.mT @ left) @ (basis.mT @ right).mT)
        share = basis.shape[1] / self.rows
        around = [1.0] if share < 1 else []
        return {
            "left_right": Measures(
                mean_square=1 + share * (inside.mean_square - 1),
                mean_diagonal=1 + share * (inside.mean_diagonal - 1),
                largest=max([inside.largest, *around]),
                smallest=min([inside.smallest, *around]),
            )
        }
