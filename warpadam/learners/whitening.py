"""The learner ``whitening``: P is made of inverse roots of the running gradient covariances.

P g goes into Adam's second moment, as in the paper. Such a P is symmetric and positive, so the step need not be turned
back. The first moment stays in raw gradient space, so momentum does not become stale when P changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.adam import bias_correction
from warpadam.learners.base import Part, State, StepSettings, UpdateRule, count_steps, init_moments
from warpadam.learners.normalised import restart_unless_finite
from warpadam.learners.roots import inverse_root
from warpadam.learners.scale import (
    TENSOR_SCALE_SHAPE,
    init_learned_scale,
    init_sides_and_scale,
    learn_scale,
    remember,
    scaled_direction,
)
from warpadam.structures import Distortion, Factors

UPDATE_RMS: Final = 0.2
"""Root mean square of a matrix's update, as in Muon: near AdamW's in training, so that one lr fits all tensors."""

_STALE: Final = 10
"""Momentum is stale if it is this many times larger than the gradient. The update then loses the fixed size, and
shrinks as fast as a momentum without new gradients."""

_FRESHNESS: Final = "freshness"
"""State entry: the share of the fixed size that an update has, 1 unless the momentum is stale."""

_SMALLEST: Final = 1e-20
"""The square of a smaller root mean square is rounded to zero. A row of zeros does not move."""

_TINY: Final = 1e-23
"""Root mean square of P g under which updates become smaller. The squares of such numbers are zero in fp32."""

_EARLY_REFRESHES: Final = (2, 4, 7)
"""Steps at which P is refreshed, independent of ``meta_every``. Step 1 is not one of them: the inverse root of a single
gradient's covariance would undo that gradient."""


@final
@dataclass(frozen=True, slots=True)
class WhiteningRule(UpdateRule):
    """theta <- theta - lr S rms(u(P h)), where h is the Nesterov momentum of the raw gradient.

    Each factor of P is (L / |L| + damping I)^-1/2, where L is the running covariance of its side and |L| a norm of it
    (see :mod:`~warpadam.learners.roots`). This differs from (L + damping |L| I)^-1/2 by a constant, which Adam cancels,
    and it keeps P near I in size. The second moment follows the mean square of each row of P h, because P has already
    made the elements of a row alike. The update of a tensor is rescaled to a root mean square of ``UPDATE_RMS``, and to
    less and less while its momentum is stale.

    The covariances are G G^T and G^T G for a Kronecker P, and g g^T of each block for a full P.

    The state holds ``exp_avg`` in raw gradient space, one ``exp_avg_sq`` for each row of the warped gradient, the
    factors, their covariances, the share of the fixed size that the next update has and, with ``p_lr`` > 0, one
    learned scale and the last scaled update.

    Cost: a refresh takes one symmetric eigendecomposition for each factor, or 17 matrix products of its length on
    accelerators and for short factors.

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244) for the place of P; Gupta et al. 2018 (Shampoo, arXiv 1802.09568)
    for the covariances; Liu et al. 2025 (arXiv 2502.16982) for the size of the update.
    """

    joins_shapes = True
    joins_steps = True

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
    def recomputable(self, distortion: Distortion) -> Mapping[str, str]:
        return distortion.sides

    @override
    def recompute(self, state: Mapping[str, Tensor], name: str, source: Tensor) -> Tensor:
        identity = torch.eye(source.shape[-1], dtype=source.dtype, device=source.device).expand_as(source)
        if state["step"] < _EARLY_REFRESHES[0]:
            return identity
        root, is_usable = _checked_root(source)
        return torch.where(is_usable, root, identity)

    @override
    def spreads(self, distortion: Distortion) -> bool:
        return True  # through the size of the update

    @override
    def update(self, part: Part, settings: StepSettings) -> Tensor:
        steps = count_steps(part)
        if settings.p_lr > 0:
            learn_scale(part, part.grad, steps, settings)
        part.distortion.follow(part.state, part.grad, settings.cov_beta)
        due = [step in _EARLY_REFRESHES or (step > 1 and step % settings.meta_every == 0) for step in steps]
        if any(due):
            refresh(part, due)
        update = scaled_direction(part, _direction(part, part.each(steps, 2), settings))
        if settings.p_lr > 0 and settings.is_judged:
            remember(part, update)
        return update


def _direction(part: Part, step: int | Tensor, settings: StepSettings) -> Tensor:
    """Return the update of fixed size that Adam makes of the warped Nesterov momentum."""
    exp_avg, exp_avg_sq, beta1 = part.state["exp_avg"], part.state["exp_avg_sq"], settings.beta1
    exp_avg.lerp_(part.grad, 1 - beta1)
    ahead = (exp_avg * (beta1 / bias_correction(beta1, step))).add_(part.grad, alpha=1 - beta1)
    fresh = _freshness(part, ahead, beta1)
    warped = part.distortion.apply(part.state, ahead)
    columns, rows = _lengths(part)
    row = torch.linalg.vector_norm(warped, dim=-1, keepdim=True).div_(columns**0.5)  # root mean squares
    exp_avg_sq.mul_(settings.beta2).addcmul_(row, row, value=1 - settings.beta2)
    root = exp_avg_sq.sqrt().div_(bias_correction(settings.beta2, step) ** 0.5).add_(max(settings.eps, _SMALLEST))
    row.div_(root).nan_to_num_(0.0)  # the root mean square of each row of u. A row of NaN does not move
    size = torch.linalg.vector_norm(row, dim=-2, keepdim=True).div_(rows**0.5 * UPDATE_RMS)
    return warped.mul_(fresh / root.mul_(size).clamp_min_(_TINY / UPDATE_RMS))


def _lengths(part: Part) -> tuple[float | Tensor, float | Tensor]:
    """Return over how many columns and rows the elements of a parameter spread, for each parameter if they differ.

    The rows of a layout with padding inside count with the share of its elements that are the parameter's.
    """
    if part.padding is not None:
        return part.padding.columns, part.padding.rows
    columns = part.distortion.layout[-1]
    return columns, part.distortion.size / columns


def _freshness(part: Part, momentum: Tensor, beta1: float) -> Tensor:
    """Let the share of the fixed size shrink while the momentum is stale, and return it."""
    kept, dims = part.state[_FRESHNESS], tuple(range(part.stack_dims, part.grad.ndim))
    ratio = torch.linalg.vector_norm(part.grad, dim=dims).div_(torch.linalg.vector_norm(momentum, dim=dims))
    # fmax, because the ratio of zero to zero is NaN
    torch.fmax(ratio.mul_(_STALE), kept.mul_(beta1), out=kept).clamp_max_(1)
    return kept.view(*kept.shape, 1, 1)


def refresh(part: Part, due: Sequence[bool]) -> None:
    """Recompute the factors. Keep a factor if its covariance is zero, was not finite, or has no finite root.

    Args:
        part: Its state is changed.
        due: For each parameter, whether it is its turn.
    """
    state, sides = part.state, part.distortion.sides
    restart_unless_finite(part.distortion, state)
    for places in _places(part, due):
        covariances = [_as_stack(state[sides[side]][index]) for side, index in places]
        root, usable = _checked_root(torch.cat(covariances) if len(covariances) > 1 else covariances[0])
        counts = list(map(len, covariances))
        parts = zip(places, torch.split(root, counts), torch.split(usable, counts), strict=True)
        for (side, index), new, is_usable in parts:
            old = state[side][index]
            state[side][index] = torch.where(is_usable, new, _as_stack(old)).view(old.shape)


def _checked_root(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverse root, and where it may be used: for each matrix True or False, with two more axes."""
    root = inverse_root(covariance)
    usable = (covariance.diagonal(dim1=-2, dim2=-1).amax(-1) > 0) & root.isfinite().flatten(-2).all(-1)
    return root, usable[..., None, None]


def _as_stack(matrix: Tensor) -> Tensor:
    return matrix.reshape(-1, *matrix.shape[-2:])


def _places(part: Part, due: Sequence[bool]) -> Iterable[list[tuple[str, Any]]]:
    """Return the factors whose turn it is, each as its name and an index: in one list those that are computed together.

    These have the same length. Factors of a parameter that is stepped alone are large; to join them would only copy.
    """
    if not part.stack_dims:
        return ([(side, ...)] for side in part.distortion.sides)
    together: dict[int, list[tuple[str, Any]]] = {}
    for side in part.distortion.sides:
        shapes = part.padding.shapes[side] if part.padding else [part.state[side].shape] * len(due)
        start = 0
        for (length, is_due), run in itertools.groupby(zip((shape[-1] for shape in shapes), due, strict=True)):
            stop = start + len(list(run))
            if is_due:  # slices, because a list of indices would have to be copied to the device
                together.setdefault(length, []).append((side, (slice(start, stop), ..., slice(length), slice(length))))
            start = stop
    return together.values()
