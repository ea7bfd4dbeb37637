"""Finds the coordinates of a covariance that have no gradient: dead units, masked rows, the padding of a block.

A decomposition couples them to the others by rounding. Adam divides the size of a gradient out, so it would make full
steps of this noise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def silent_coordinates(covariance: Tensor) -> Tensor | None:
    """Return which coordinates have a variance, and covariances with all others, that are lost in rounding.

    They are zero if the gradient was always zero, and become that small some hundred steps after the last gradient.

    Args:
        covariance: length x length. May have more dimensions in front.

    Returns:
        True or False for each coordinate, in the shape of the covariance without its last dimension. None if there are
        no such coordinates, which is only known on a CPU: elsewhere the program would have to wait.
    """
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    limit = variances.amax(-1, keepdim=True) * torch.finfo(covariance.dtype).eps
    is_small = variances <= limit
    if is_small.is_cpu and not is_small.any():
        return None
    others = covariance.abs()
    others.diagonal(dim1=-2, dim2=-1).zero_()
    return is_small & (others.amax(-1) <= limit)
