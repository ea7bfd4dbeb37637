"""Bring your own model: a small gated MLP.

Use it in a job as ``{"entrypoint": "examples.gated_mlp:make_model", "config": {"width": 32}}``. The operator must set
``WARPTUNE_ALLOWED_MODULES=examples``. See docs/user-code.md.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override


class GatedBlock(nn.Module):
    """A residual block: layer norm, then hidden units multiplied by gates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.values_gates = nn.Linear(width, 4 * width)
        self.back = nn.Linear(2 * width, width)

    @override
    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.values_gates(self.norm(x)).chunk(2, dim=1)
        result: Tensor = x + self.back(values * functional.silu(gates))
        return result


def make_model(shape: tuple[int, ...], outputs: int, task: str, *, width: int = 32, blocks: int = 2) -> nn.Module:
    """Return a gated MLP for rows of any shape.

    Args:
        shape: Shape of one row: (features,), or (channels, height, width) for images.
        outputs: Number of values to return for each row: class scores, or numbers.
        task: classification, regression or autoencoding. This model ignores it.
        width: Width of the blocks.
        blocks: Number of blocks.
    """
    del task
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(math.prod(shape), width)]
    return nn.Sequential(*layers, *(GatedBlock(width) for _ in range(blocks)), nn.Linear(width, outputs))
