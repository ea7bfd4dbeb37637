"""Inverse roots of covariances, which make up the P of a whitening.

On a CUDA device an eigendecomposition is slow, and the program waits for it. There the roots are made of matrix
products only. On a CPU an eigendecomposition costs less than 17 products unless several short matrices are stacked.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from warpadam.learners.silent import silent_coordinates
from warpadam.precision import in_full_precision

DAMPING: Final = 1e-5
"""Added to the covariance's spectrum, as a fraction of its norm, so each factor of P stretches by at most
1/sqrt(DAMPING). (1e-4 makes a transformer's loss 0.07 higher, 1e-3 0.4 higher; 1e-6 is as good as 1e-5, but closer to
the resolution of fp32.)"""

_QUINTICS: Final = (
    (8.376742, -24.73863, 18.3354),
    (4.032621, -3.003833, 0.5686493),
    (3.474740, -2.604067, 0.523155),
    (2.454837, -1.804122, 0.4335265),
    (1.911670, -1.290167, 0.3790389),
)
"""Odd polynomials a x + b x^3 + c x^5. One after the other they bring every x from sqrt(DAMPING) to 1 within 0.4 % of
1. Each is the best on the interval that the one before it leaves (Amsel et al. 2025, Polar Express, arXiv
2505.16932)."""

_LONGEST: Final = 64
_SHORTEST_SUM: Final = 128
"""On a CPU, products are faster for matrices that are not longer than this, and whose lengths add up to this."""


def inverse_root(covariance: Tensor) -> Tensor:
    """Return (L / |L| + DAMPING I)^-1/2 of a symmetric L >= 0, or of several with more dimensions in front.

    |L| is the Schatten norm of order 4, that is the fourth root of the sum of the fourth powers of L's eigenvalues. It
    is at least the largest eigenvalue, and needs no eigendecomposition.

    Args:
        covariance: length x length, fp32 or fp64. Where it is zero or not finite, so may be the result.

    Returns:
        The root in a tensor of its own. In fp32 its relative error is below 1 %.

    >>> inverse_root(torch.tensor([[1.0, 0.0], [0.0, 0.25]])).round(decimals=2)
    tensor([[1., 0.],
            [0., 2.]])
    """
    size = covariance.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    scaled = covariance / size.clamp_min(torch.finfo(size.dtype).tiny)  # no element is larger than 1 now
    return root_by_products(scaled) if _favours_products(scaled) else root_by_eigenvectors(scaled)


def _favours_products(scaled: Tensor) -> bool:
    """Tell whether products are faster. In fp64, users want more digits than they give."""
    if scaled.dtype == torch.float64:
        return False
    length = scaled.shape[-1]
    return not scaled.is_cpu or (length <= _LONGEST and length * scaled.shape[:-2].numel() >= _SHORTEST_SUM)


def root_by_eigenvectors(scaled: Tensor) -> Tensor:
    """Return (L / |L| + DAMPING I)^-1/2 by an eigendecomposition of L.

    Args:
        scaled: L with no element over 1. Overwritten.
    """
    silent = silent_coordinates(scaled)
    # LAPACK fails on some exactly singular matrices, for example of an embedding with tokens that no batch had
    scaled.diagonal(dim1=-2, dim2=-1).add_(torch.finfo(scaled.dtype).eps)
    values, vectors = _eigh(scaled)
    values = values.clamp_min_(0)
    norm = torch.linalg.vector_norm(values, 4, dim=-1, keepdim=True)
    roots = (values / norm).add_(DAMPING).rsqrt_()
    root: Tensor = (vectors * roots.unsqueeze(-2)) @ vectors.mT
    if silent is not None:  # products keep the zeros
        own = root.diagonal(dim1=-2, dim2=-1).clone()
        root.masked_fill_(silent.unsqueeze(-1) | silent.unsqueeze(-2), 0.0)
        root.diagonal(dim1=-2, dim2=-1).copy_(own)
    return root


def root_by_products(scaled: Tensor) -> Tensor:
    """Return (L / |L| + DAMPING I)^-1/2 by 17 matrix products. Nothing waits for the device.

    With M = L / |L| + DAMPING I, the eigenvalues of the root R and of R M R are x^-1 and 1 where x is a singular value
    of M^1/2. Each polynomial p(x) x multiplies R by p(M), and what is left of M by p(M)^2.

    Args:
        scaled: L with no element over 1.
    """
    with in_full_precision():
        left = scaled.reshape(-1, *scaled.shape[-2:])  # bmm takes half the time of @ while matrices are small
        norm = torch.linalg.vector_norm(torch.bmm(left, left), dim=(-2, -1), keepdim=True).sqrt_()
        left = left / norm
        left.diagonal(dim1=-2, dim2=-1).add_(DAMPING)
        root = None
        for index, (a, b, c) in enumerate(_QUINTICS, start=1):
            factor = torch.baddbmm(left, left, left, beta=b, alpha=c)
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
            root = factor if root is None else torch.bmm(root, factor)
            if index < len(_QUINTICS):
                left = torch.bmm(torch.bmm(left, factor), factor)
        assert root is not None
        return root.view(scaled.shape)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(matrix.double())  # rare; fp64 succeeds where fp32 fails
    return values.to(matrix.dtype), vectors.to(matrix.dtype)
