"""The learner ``rotation``: P turns gradients into the eigenbasis of their running covariances.

Adam then works in coordinates that are nearly uncorrelated. The meta-gradient learns a scale in that basis; without the
scale this is SOAP. When the basis turns, the first moment turns with it, as if it were kept in raw gradient space. So
momentum is never stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.adam import direction, update_moments
from warpadam.learners.base import (
    SKIPPED,
    Part,
    State,
    StepSettings,
    UpdateRule,
    count_steps,
    init_moments,
    moments_of,
)
from warpadam.learners.normalised import restart_unless_finite
from warpadam.learners.scale import (
    init_learned_scale,
    init_sides_and_scale,
    learn_scale,
    remember,
    reorder_scale,
    scaled_direction,
)
from warpadam.learners.silent import silent_coordinates
from warpadam.structures import Distortion, Factors

_FIRST_TURNS: Final = 5
"""Power iterations before the first step if no basis was carried over. Steps in the given coordinates, or in a
basis halfway to the eigenvectors, would be felt for a hundred steps."""

_EARLY_REFRESHES: Final = (1, 2, 4, 7)
"""Steps after which the basis is refreshed, independent of ``meta_every``. One gradient says little about the next, and
a basis that was carried over little about a new network."""

_SHIFT: Final = 1e-4
"""Added to the covariance's spectrum, as a fraction of its mean. Where the gradient is zero, the basis stays as it is
instead of turning with rounding noise. (1e-6 to 1e-3 train equally well; against fp32 noise larger is better.)"""

_MIN_SHIFT: Final = 1e-30
"""The shift while every gradient was zero. The QR decomposition of zeros would lose a basis that was carried over."""


@final
@dataclass(frozen=True, slots=True)
class RotationRule(UpdateRule):
    """theta <- theta - lr Q^T S u(Q g), with Q the eigenbasis of the covariances and S a learned scale.

    An axis without a side keeps its coordinates, and still has a scale.

    The first step is made in the basis of its own gradient (SOAP leaves it out). A basis that was carried over turns
    towards that gradient once.

    The state holds both moments in the eigenbasis, the factors (their rows are the eigenvectors), their covariances
    and, with ``p_lr`` > 0, the scale and the last scaled direction.

    Source: Vyas et al. 2024 (SOAP, arXiv 2409.11321), algorithm 3, for the basis.
    """

    @override
    def init_state(self, distortion: Distortion, dtype: torch.dtype, device: torch.device, *, learns: bool) -> State:
        state = {**init_moments(distortion, dtype, device), **distortion.init_sides(dtype, device)}
        return state | (init_learned_scale(distortion, distortion.scale_shape, dtype, device) if learns else {})

    @override
    def init_carried(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> Factors:
        return init_sides_and_scale(distortion, distortion.scale_shape, dtype, device)

    @override
    def update(self, part: Part, settings: StepSettings) -> Tensor:
        steps, distortion, state = count_steps(part), part.distortion, part.state
        step = steps[0]
        is_due = step - 1 in _EARLY_REFRESHES or (step > 1 and (step - 1) % settings.meta_every == 0)
        projected = distortion.apply(state, part.grad)
        if settings.p_lr > 0:
            learn_scale(part, projected, steps, settings)  # in the basis of the step that it judges
        is_new = None
        if step == 1:
            is_new = start(part, settings.cov_beta)
        elif is_due:
            refresh(distortion, state)
        if step == 1 or is_due:
            projected = distortion.apply(state, part.grad)
        moments = moments_of(part, step, settings)
        update_moments(moments, projected)
        if is_new is not None:
            moments = moments._replace(exp_avg_sq=_at_least_the_mean(part, is_new))
        update = scaled_direction(part, direction(moments))
        if settings.p_lr > 0 and settings.is_judged:
            # in a new basis the sign of most elements is that of a rounding error, which must not teach the scale
            remember(part, update if is_new is None else update * (1 - is_new))
        if step > 1:
            distortion.follow(state, part.grad, settings.cov_beta)
        return distortion.apply_transpose(state, update)


def start(part: Part, cov_beta: float) -> Tensor:
    """Let the covariances follow the first gradient, and turn the basis towards their eigenvectors; in place.

    A basis or covariances that were carried over say more than one gradient does: one power iteration is enough, as at
    every refresh. Without them, nothing but this gradient is known.

    Returns:
        For each parameter whether it came without them, as 1 or 0. Broadcasts to the moments.
    """
    distortion, state = part.distortion, part.state
    is_new = torch.full_like(state[SKIPPED], bool(distortion.sides))
    for side, covariance in distortion.sides.items():
        identity = torch.eye(state[side].shape[-1], dtype=is_new.dtype, device=is_new.device)
        for given, absent in ((state[side], identity), (state[covariance], 0.0)):
            is_new.mul_((given == absent).flatten(part.stack_dims).all(-1))
    distortion.follow(state, part.grad, cov_beta)
    refresh(distortion, state)
    for side, covariance in distortion.sides.items():
        turned, silent = state[side], silent_coordinates(state[covariance])
        for _ in range(_FIRST_TURNS - 1):  # not sorted again: rounding would sort the directions without a gradient
            turned = _orthogonal(_grown(turned, state[covariance]), silent)
        state[side].copy_(torch.where(_viewed(is_new, turned.ndim) > 0, turned, state[side]))
    return _viewed(is_new, part.grad.ndim)


def _viewed(each: Tensor, dims: int) -> Tensor:
    """Give a tensor with one element for each parameter more dimensions at the end."""
    return each.view(*each.shape, *[1] * (dims - each.ndim))


def _at_least_the_mean(part: Part, is_new: Tensor) -> Tensor:
    """Return the second moment, but its mean where that is more and the basis is new.

    In the basis that is made of a single gradient, most elements of this gradient are nothing but rounding errors. Adam
    would make full steps of them.
    """
    exp_avg_sq = part.state["exp_avg_sq"]
    mean = exp_avg_sq.mean(tuple(range(part.stack_dims, exp_avg_sq.ndim)), keepdim=True)
    return torch.where(is_new > 0, exp_avg_sq.maximum(mean), exp_avg_sq)


def refresh(distortion: Distortion, state: State) -> None:
    """Turn the basis by one power iteration, and everything that is indexed by it; in place."""
    restart_unless_finite(distortion, state)
    exp_avg = distortion.apply_transpose(state, state["exp_avg"])
    for side, covariance in distortion.sides.items():
        turned, order = turn_basis(state[side], state[covariance])
        state[side].copy_(turned)
        state["exp_avg_sq"].copy_(distortion.reordered(state["exp_avg_sq"], side, order))
        reorder_scale(state, distortion, side, order)
    state["exp_avg"].copy_(distortion.apply(state, exp_avg))


def turn_basis(basis: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Move an orthogonal basis towards the eigenvectors of a covariance, largest eigenvalue first.

    Coordinates without a gradient have basis vectors of their own. These come last and keep their order, so those of
    padding stay at the end, where they are cut off when the state is saved.

    Args:
        basis: length x length; its rows are the basis vectors. May have more dimensions in front.
        covariance: Symmetric, same shape.

    Returns:
        The new basis, and for each of its rows the index of the old row that it came from.

    Cost: one matrix product and one QR decomposition of the length.
    """
    silent = silent_coordinates(covariance)
    if silent is None:
        grown = _grown(basis, covariance)
        order = torch.linalg.vecdot(basis, grown).argsort(dim=-1, descending=True, stable=True)
    else:
        own = (basis.square() @ silent.unsqueeze(-1).to(basis.dtype)).squeeze(-1) > 0.5  # which rows are theirs
        basis = basis.masked_fill(own.unsqueeze(-1) != silent.unsqueeze(-2), 0.0)
        grown = _grown(basis, covariance.masked_fill(silent.unsqueeze(-1) | silent.unsqueeze(-2), 0.0))
        sizes = torch.linalg.vecdot(basis, grown).masked_fill_(own, -torch.inf)
        order = sizes.argsort(dim=-1, descending=True, stable=True)
    return _orthogonal(grown.gather(-2, order[..., None].expand_as(grown)), silent), order


def _grown(basis: Tensor, covariance: Tensor) -> Tensor:
    shift = (covariance.diagonal(dim1=-2, dim2=-1).mean(-1) * _SHIFT).clamp_min(_MIN_SHIFT)
    return (basis @ covariance).add_(basis * shift[..., None, None])


def _orthogonal(rows: Tensor, silent: Tensor | None) -> Tensor:
    """Orthonormalise the rows, one after the other.

    If silent coordinates have rows of their own, and these are the last, the result has exact zeros where the rows
    have. For this the coordinates are moved to the last places too. Anywhere else, the reflections of the QR
    decomposition would mix them with others by rounding.
    """
    if silent is None:
        basis: Tensor = torch.linalg.qr(rows.mT)[0].mT
        return basis
    places = silent.to(torch.uint8).argsort(dim=-1, stable=True).unsqueeze(-2).expand_as(rows)
    arranged: Tensor = torch.linalg.qr(rows.gather(-1, places).mT)[0].mT
    return torch.empty_like(rows).scatter_(-1, places, arranged)
