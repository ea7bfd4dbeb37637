"""A network with a normalisation to choose, which a spec names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

NORMS = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


def normed_mlp(
    shape: tuple[int, ...], outputs: int, task: str, *, hidden: Sequence[int] = (64, 64), norm: str = "none"
) -> nn.Module:
    """Return linear layers, each followed by a normalisation and a ReLU.

    Args:
        shape: Shape of one row.
        outputs: Number of values to return for each row.
        task: What it is trained for; all tasks have the same network.
        hidden: Widths of the hidden layers.
        norm: ``none``, ``layer`` or ``batch``.
    """
    del task
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in pairwise([math.prod(shape), *hidden]):
        layers += [nn.Linear(before, width), NORMS[norm](width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))
