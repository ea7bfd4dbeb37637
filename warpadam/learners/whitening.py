# P follows the inverse roots of the running gradient covariances: the paper's own form, P g into the moments. Such a P
# is symmetric positive, so its step needs no way back. The first moment stays in raw gradient space, so a P that moves
# never sees stale momentum.
"""P that whitens the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.learners.base import Part, Settings, State, UpdateRule, count_step, init_moments, moments_of
from warpadam.learners.normalised import SKIPPED, restart_unless_finite
from warpadam.learners.scale import LOG_SCALE, forget, learn_scales, remember, scale_directions, start_scale
from warpadam.structures import Distortion, Factors, SidedDistortion

UPDATE_RMS: Final = 0.2
"""Root mean square of a matrix's update, as Muon has it: near that of AdamW in training, so one lr fits all tensors."""

POWER: Final = 0.5
"""Exponent of the inverse root on each side."""

DAMPING: Final = 1e-5
"""Added to the covariance's spectrum, as a fraction of its largest eigenvalue: P stretches at most 1/sqrt of it. (1e-4
leaves a transformer's loss 0.07 higher, 1e-3 0.4; 1e-6 is as good, but nearer to what fp32 resolves.)"""

_SMALLEST: Final = 1e-20
"""Below it the square of a root mean square is rounded to nothing: a row of zeros does not move."""

_EARLY_REFRESHES: Final = (2, 4, 7)
"""Steps at which P is refreshed whatever ``meta_every`` says. Never at the first: the root of one gradient's covariance
would undo that gradient."""


@final
@dataclass(frozen=True, slots=True)
class WhiteningRule(UpdateRule):
    """theta <- theta - lr S rms(u(P h)), with h the nesterov momentum of the raw gradient.

    Each factor of P is (L / lmax + damping I)^-power with L the running covariance of its side and lmax its largest
    eigenvalue. Adam is blind to the constant by which this differs from (L + damping lmax I)^-power, and P stays near I
    in size. The second moment follows the mean square of each row of P h, whose elements P has made alike already, and
    the update is rescaled to ``UPDATE_RMS``.

    The structure must be one with sides: A (x) B from G G^T and G^T G, or a dense block each from its g g^T.

    State: ``exp_avg`` in raw gradient space, one ``exp_avg_sq`` for each row of the warped gradient, the factors, their
    covariances, a count of refreshes that were skipped, and with ``p_lr`` > 0 one learned scale and the update it is
    judged by.

    Cost: a refresh takes one symmetric eigendecomposition a factor. (An iteration of matrix products needs some 20 of
    them at this damping, and LAPACK's cost is that of 7 to 10.)

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244) for the place of P; Gupta et al. 2018 (Shampoo, arXiv 1802.09568)
    for the covariances; Liu et al. 2025 (arXiv 2502.16982) for the size of the update.
    """

    @override
    def init_state(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> State:
        skipped = torch.zeros((), dtype=dtype, device=device)
        return {
            **init_moments(distortion, dtype, device),
            "exp_avg_sq": torch.zeros((*distortion.layout[:-1], 1), dtype=dtype, device=device),
            **cast(SidedDistortion, distortion).init_sides(dtype, device),
            SKIPPED: skipped,
        }

    @override
    def init_carried(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> Factors:
        return {
            **cast(SidedDistortion, distortion).init_sides(dtype, device),
            LOG_SCALE: torch.zeros(1, dtype=dtype, device=device),
        }

    @override
    def update(self, parts: Sequence[Part], settings: Settings) -> list[Tensor]:
        step = count_step(parts)
        if settings.p_lr > 0:
            for part in parts:
                start_scale(part, (1,))
            learn_scales(parts, [part.grad for part in parts], settings)
        for part in parts:
            cast(SidedDistortion, part.distortion).follow(part.state, part.grad, settings.cov_beta)
        if step in _EARLY_REFRESHES or (step > 1 and step % settings.meta_every == 0):
            for part in parts:
                refresh(cast(SidedDistortion, part.distortion), part.state)
        updates = _directions(parts, step, settings)
        scale_directions(parts, updates)
        if settings.p_lr > 0:
            remember(parts, updates)
        else:
            forget(parts)
        return updates


def _directions(parts: Sequence[Part], step: int, settings: Settings) -> list[Tensor]:
    """Return the updates of fixed size that Adam makes of the warped nesterov momenta."""
    moments = moments_of(parts, step, settings)
    grads, beta1 = [part.grad for part in parts], settings.beta1
    torch._foreach_lerp_(moments.exp_avgs, grads, 1 - beta1)
    ahead = list(torch._foreach_mul(grads, 1 - beta1))
    torch._foreach_add_(ahead, moments.exp_avgs, alpha=beta1 / (1 - beta1**step))
    warped = [part.distortion.apply(part.state, tensor) for part, tensor in zip(parts, ahead, strict=True)]
    rows = [tensor.square().mean(-1, keepdim=True) for tensor in warped]
    torch._foreach_mul_(moments.exp_avg_sqs, settings.beta2)  # a lerp would make NaN of a square that overflowed
    torch._foreach_add_(moments.exp_avg_sqs, rows, alpha=1 - settings.beta2)
    roots = list(torch._foreach_sqrt(moments.exp_avg_sqs))
    torch._foreach_div_(roots, math.sqrt(1 - settings.beta2**step))
    torch._foreach_add_(roots, settings.eps)
    torch._foreach_clamp_min_(roots, _SMALLEST)
    torch._foreach_sqrt_(rows)
    torch._foreach_div_(rows, roots)  # the root mean square of each row of u
    for part, tensor, root, row in zip(parts, warped, roots, rows, strict=True):
        share = tensor.shape[-1] / cast(SidedDistortion, part.distortion).size
        row.nan_to_num_(0.0)  # such a row does not move
        size = torch.linalg.vector_norm(row, dim=-2, keepdim=True).mul_(math.sqrt(share))
        tensor.mul_(UPDATE_RMS / (root * size.clamp_min_(_SMALLEST**0.75)))
    return warped


def refresh(distortion: SidedDistortion, state: State) -> None:
    """Recompute the factors; keep them where a covariance is zero or was not finite, or has no finite root."""
    restart_unless_finite(distortion, state)
    for side, name in distortion.sides.items():
        size = state[name].diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
        root = inverse_root(state[name], size)
        usable = (size > 0) & root.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        state[side].copy_(torch.where(usable, root, state[side]))


def inverse_root(covariance: Tensor, size: Tensor) -> Tensor:
    """Return (L / lmax + damping I)^-power of a symmetric L >= 0, or of several with dimensions in front.

    Args:
        covariance: Finite, length x length; of zeros the result is not a number.
        size: Its largest diagonal element, which keeps the numbers in range.

    >>> inverse_root(torch.tensor([[1.0, 0.0], [0.0, 0.25]]), torch.tensor(1.0)).round(decimals=2)
    tensor([[1., 0.],
            [0., 2.]])
    """
    scaled = covariance / size.clamp_min(torch.finfo(size.dtype).tiny)
    # LAPACK fails on some that lack rank exactly, as those of an embedding with tokens that no batch had
    scaled.diagonal(dim1=-2, dim2=-1).add_(torch.finfo(size.dtype).eps)
    values, vectors = _eigh(scaled)
    roots = (values.clamp_min(0) / values[..., -1:]).add_(DAMPING).pow_(-POWER)
    root: Tensor = (vectors * roots.unsqueeze(-2)) @ vectors.mT
    return root


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(matrix.double())  # rare, and it holds where fp32 gave up
    return values.to(matrix.dtype), vectors.to(matrix.dtype)
