"""The learner ``whitening``: P is made of inverse roots of the running gradient covariances.

P g goes into Adam's second moment, as in the paper. Such a P is symmetric and positive, so the step need not be turned
back. The first moment stays in raw gradient space, so momentum does not become stale when P changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.learners.base import Part, State, StepSettings, UpdateRule, count_steps, init_moments, moments_of, norms
from warpadam.learners.normalised import restart_unless_finite
from warpadam.learners.scale import (
    TENSOR_SCALE_SHAPE,
    init_learned_scale,
    init_sides_and_scale,
    learn_scales,
    remember,
    scale_directions,
)
from warpadam.structures import Distortion, Factors

UPDATE_RMS: Final = 0.2
"""Root mean square of a matrix's update, as in Muon: near AdamW's in training, so that one lr fits all tensors."""

POWER: Final = 0.5
"""Exponent of the inverse root on each side."""

DAMPING: Final = 1e-5
"""Added to the covariance's spectrum, as a fraction of its largest eigenvalue, so each factor of P stretches by at most
1/sqrt(DAMPING). (1e-4 makes a transformer's loss 0.07 higher, 1e-3 0.4 higher; 1e-6 is as good as 1e-5, but closer to
the resolution of fp32.)"""

_STALE: Final = 10
"""Momentum is stale if it is this many times larger than the gradient. The update then loses the fixed size, and
shrinks as fast as a momentum without new gradients."""

_FRESHNESS: Final = "freshness"
"""State entry: the share of the fixed size that an update has, 1 unless the momentum is stale."""

_SMALLEST: Final = 1e-20
"""The square of a smaller root mean square is rounded to zero. A row of zeros does not move."""

_EARLY_REFRESHES: Final = (2, 4, 7)
"""Steps at which P is refreshed, independent of ``meta_every``. Step 1 is not one of them: the inverse root of a single
gradient's covariance would undo that gradient."""


@final
@dataclass(frozen=True, slots=True)
class WhiteningRule(UpdateRule):
    """theta <- theta - lr S rms(u(P h)), where h is the Nesterov momentum of the raw gradient.

    Each factor of P is (L / lmax + damping I)^-power, where L is the running covariance of its side and lmax the
    largest eigenvalue of L. This differs from (L + damping lmax I)^-power by a constant, which Adam cancels, and it
    keeps P near I in size. The second moment follows the mean square of each row of P h, because P has already made the
    elements of a row alike. The update of a tensor is rescaled to a root mean square of ``UPDATE_RMS``, and to less and
    less while its momentum is stale.

    The covariances are G G^T and G^T G for a Kronecker P, and g g^T of each block for a full P.

    The state holds ``exp_avg`` in raw gradient space, one ``exp_avg_sq`` for each row of the warped gradient, the
    factors, their covariances, the share of the fixed size that the next update has and, with ``p_lr`` > 0, one
    learned scale and the last scaled update.

    Cost: a refresh takes one symmetric eigendecomposition for each factor. (On one CPU core, it costs as much as 44
    matrix products of length 64, 28 of length 128, 12 of length 256. Iterative methods need about 20 at this damping.)

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244) for the place of P; Gupta et al. 2018 (Shampoo, arXiv 1802.09568)
    for the covariances; Liu et al. 2025 (arXiv 2502.16982) for the size of the update.
    """

    @override
    def init_state(self, distortion: Distortion, dtype: torch.dtype, device: torch.device, *, learns: bool) -> State:
        state = {
            **init_moments(distortion, dtype, device),
            "exp_avg_sq": torch.zeros((*distortion.layout[:-1], 1), dtype=dtype, device=device),
            **distortion.init_sides(dtype, device),
            _FRESHNESS: torch.ones((), dtype=dtype, device=device),
        }
        return state | (init_learned_scale(distortion, TENSOR_SCALE_SHAPE, dtype, device) if learns else {})

    @override
    def init_carried(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> Factors:
        return init_sides_and_scale(distortion, TENSOR_SCALE_SHAPE, dtype, device)

    @override
    def spreads(self, distortion: Distortion) -> bool:
        return True  # through the size of the update

    @override
    def update(self, parts: Sequence[Part], settings: StepSettings) -> list[Tensor]:
        steps = count_steps(parts)
        if settings.p_lr > 0:
            learn_scales(parts, [part.grad for part in parts], steps, settings)
        for part, step in zip(parts, steps, strict=True):
            part.distortion.follow(part.state, part.grad, settings.cov_beta)
            if step in _EARLY_REFRESHES or (step > 1 and step % settings.meta_every == 0):
                refresh(part.distortion, part.state)
        updates = _directions(parts, steps, settings)
        scale_directions(parts, updates)
        if settings.p_lr > 0:
            remember(parts, updates, steps)
        return updates


def _directions(parts: Sequence[Part], steps: Sequence[int], settings: StepSettings) -> list[Tensor]:
    """Return the updates of fixed size that Adam makes of the warped Nesterov momenta."""
    moments = moments_of(parts, steps, settings)
    grads, beta1 = [part.grad for part in parts], settings.beta1
    torch._foreach_lerp_(moments.exp_avgs, grads, 1 - beta1)
    ahead = list(torch._foreach_mul(moments.exp_avgs, [beta1 / (1 - beta1**step) for step in steps]))
    torch._foreach_add_(ahead, grads, alpha=1 - beta1)
    _update_freshness(parts, ahead, beta1)
    warped = [part.distortion.apply(part.state, tensor) for part, tensor in zip(parts, ahead, strict=True)]
    rows = [tensor.square().mean(-1, keepdim=True) for tensor in warped]
    torch._foreach_mul_(moments.exp_avg_sqs, settings.beta2)  # a lerp would make NaN of a square that overflowed
    torch._foreach_add_(moments.exp_avg_sqs, rows, alpha=1 - settings.beta2)
    roots = list(torch._foreach_sqrt(moments.exp_avg_sqs))
    torch._foreach_div_(roots, [math.sqrt(1 - settings.beta2**step) for step in steps])
    torch._foreach_add_(roots, settings.eps)
    torch._foreach_clamp_min_(roots, _SMALLEST)
    torch._foreach_sqrt_(rows)
    torch._foreach_div_(rows, roots)  # the root mean square of each row of u
    for part, tensor, root, row in zip(parts, warped, roots, rows, strict=True):
        share = tensor.shape[-1] / part.distortion.size
        row.nan_to_num_(0.0)  # such a row does not move
        size = torch.linalg.vector_norm(row, dim=-2, keepdim=True).mul_(math.sqrt(share) / UPDATE_RMS)
        wanted = part.state[_FRESHNESS].view(-1, 1, 1) if part.stack_dims else part.state[_FRESHNESS]
        tensor.mul_(wanted / (root * size.clamp_min_(_SMALLEST**0.75 / UPDATE_RMS)))
    return warped


def _update_freshness(parts: Sequence[Part], momenta: Sequence[Tensor], beta1: float) -> None:
    """Let the share of the fixed size shrink while the momentum is stale."""
    dims = [part.stack_dims for part in parts]
    ratio = torch.cat(norms([part.grad for part in parts], dims)).div_(torch.cat(norms(momenta, dims)))
    kept = [part.state[_FRESHNESS].view(-1) for part in parts]
    # fmax, because the ratio of zero to zero is NaN
    fresh = torch.fmax(ratio.mul_(_STALE), torch.cat(kept).mul_(beta1)).clamp_max_(1)
    torch._foreach_copy_(kept, fresh.split_with_sizes([each.numel() for each in kept]))


def refresh(distortion: Distortion, state: State) -> None:
    """Recompute the factors. Keep a factor if its covariance is zero, was not finite, or has no finite root."""
    restart_unless_finite(distortion, state)
    for side, name in distortion.sides.items():
        size = state[name].diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
        root = inverse_root(state[name], size)
        usable = (size > 0) & root.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        state[side].copy_(torch.where(usable, root, state[side]))


def inverse_root(covariance: Tensor, size: Tensor) -> Tensor:
    """Return (L / lmax + damping I)^-power of a symmetric L >= 0, or of several with more dimensions in front.

    Args:
        covariance: Finite, length x length. For zeros the result is NaN.
        size: Its largest diagonal element, which keeps the numbers in range.

    >>> inverse_root(torch.tensor([[1.0, 0.0], [0.0, 0.25]]), torch.tensor(1.0)).round(decimals=2)
    tensor([[1., 0.],
            [0., 2.]])
    """
    scaled = covariance / size.clamp_min(torch.finfo(size.dtype).tiny)
    # LAPACK fails on some exactly singular matrices, for example of an embedding with tokens that no batch had
    scaled.diagonal(dim1=-2, dim2=-1).add_(torch.finfo(size.dtype).eps)
    values, vectors = _eigh(scaled)
    roots = (values.clamp_min(0) / values[..., -1:]).add_(DAMPING).pow_(-POWER)
    root: Tensor = (vectors * roots.unsqueeze(-2)) @ vectors.mT
    return root


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(matrix.double())  # rare; fp64 succeeds where fp32 fails
    return values.to(matrix.dtype), vectors.to(matrix.dtype)
