# P follows the eigenbasis of the running gradient covariances, so Adam works in coordinates that are nearly
# uncorrelated; a learned scale in that basis is the meta-gradient part. The first moment stays in raw gradient space:
# a basis that turns never meets stale momentum. Without the scale this is SOAP.
"""P that turns with the gradient's eigenbasis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.adam import direction
from warpadam.learners.base import Settings, State, UpdateRule, count_step, init_moments, moments_of
from warpadam.learners.normalised import SKIPPED
from warpadam.learners.scale import LOG_SCALE, init_scale, learn_scale, reorder_scale, scale_direction
from warpadam.structures import Factors, KroneckerDistortion
from warpadam.structures.kronecker import COLUMN, ROW

_COVARIANCE: Final = {ROW: "row_covariance", COLUMN: "column_covariance"}

_PREV_UPDATE: Final = "prev_update"

_EARLY_REFRESHES: Final = (1, 2, 4, 7)
"""Steps after which the basis is refreshed whatever ``meta_every`` says: one power iteration from the identity is far
from the eigenvectors, and the first hundred steps would pay for it."""

_SHIFT: Final = 1e-4
"""Added to the covariance's spectrum, as a fraction of its mean: where the gradient had nothing to say, the basis stays
as it was instead of turning with rounding noise. (1e-6 to 1e-3 train equally well; fp32 noise wants it large.)"""

_MIN_SHIFT: Final = 1e-30
"""The shift while there is no gradient at all: the QR of nothing would throw a carried basis away."""


@final
@dataclass(frozen=True, slots=True)
class RotationRule(UpdateRule):
    """theta <- theta - lr Q^T S u(Q g), with Q the eigenbasis of the covariances and S a learned scale.

    Attributes:
        distortion: Kronecker; an axis that is not mixed keeps its coordinates, and still has a scale.

    State: ``exp_avg`` in raw gradient space, ``exp_avg_sq`` in the eigenbasis, the factors (rows are eigenvectors),
    their covariances, and with ``p_lr`` > 0 the scale and the direction it is judged by.

    Source: Vyas et al. 2024 (SOAP, arXiv 2409.11321), algorithm 3, for the basis.
    """

    distortion: KroneckerDistortion

    @override
    def init_state(self, dtype: torch.dtype, device: torch.device) -> State:
        factors = self.distortion.init_factors(dtype, device)
        return {
            **init_moments(self.distortion, dtype, device),
            **factors,
            **{_COVARIANCE[name]: torch.zeros_like(factor) for name, factor in factors.items()},
            SKIPPED: torch.zeros((), dtype=dtype, device=device),
        }

    @override
    def init_carried(self, dtype: torch.dtype, device: torch.device) -> Factors:
        factors = self.distortion.init_factors(dtype, device)
        covariances = {_COVARIANCE[name]: torch.zeros_like(factor) for name, factor in factors.items()}
        return {**factors, **covariances, **init_scale(self.distortion.layout, dtype, device)}

    @override
    def update(self, state: State, grad: Tensor, settings: Settings) -> Tensor:
        step = count_step(state)
        prev_update = state.pop(_PREV_UPDATE, None)
        projected = self._learn(state, grad, prev_update, settings) if settings.p_lr > 0 else None
        if step - 1 in _EARLY_REFRESHES or (step > 1 and (step - 1) % settings.meta_every == 0):
            self._refresh(state)
            projected = None
        if projected is None:
            projected = self.distortion.apply(state, grad)
        update = self._direction(state, grad, projected, step, settings)
        for axis, name in enumerate(_COVARIANCE):
            if name in state:
                vectors = grad if axis == 0 else grad.mT
                state[_COVARIANCE[name]].lerp_(vectors @ vectors.mT, 1 - settings.cov_beta)
        return self.distortion.apply_transpose(state, update)

    def _learn(self, state: State, grad: Tensor, prev_update: Tensor | None, settings: Settings) -> Tensor:
        """Step the scale in the basis of the step that it judges; return the gradient in that basis."""
        projected = self.distortion.apply(state, grad)
        if LOG_SCALE not in state:
            scale = init_scale(self.distortion.layout, grad.dtype, grad.device)[LOG_SCALE]
            state[LOG_SCALE] = scale.repeat(*grad.shape[: grad.ndim - len(self.distortion.layout)], 1)
        if prev_update is not None:
            learn_scale(state, projected, prev_update, settings.p_lr, settings.p_decay)
        return projected

    def _refresh(self, state: State) -> None:
        """Turn the basis by one power iteration, and carry along what is indexed by it."""
        for axis, name in enumerate(_COVARIANCE):
            if name in state:
                covariance = state[_COVARIANCE[name]]
                usable = covariance.isfinite().all(-1).all(-1)
                state[SKIPPED] += (~usable).to(state[SKIPPED].dtype)
                covariance.copy_(torch.where(usable[..., None, None], covariance, 0.0))  # its mean starts anew
                state[name], order = turn_basis(state[name], covariance)
                moved = order.unsqueeze(-2 if axis else -1).expand_as(state["exp_avg_sq"])
                state["exp_avg_sq"] = state["exp_avg_sq"].gather(axis - 2, moved)
                reorder_scale(state, self.distortion.layout, axis, order)

    def _direction(self, state: State, grad: Tensor, projected: Tensor, step: int, settings: Settings) -> Tensor:
        """Return S u in the eigenbasis, and remember it if the next gradient is to judge it."""
        state["exp_avg"].lerp_(grad, 1 - settings.beta1)
        state["exp_avg_sq"].mul_(settings.beta2).addcmul_(projected, projected, value=1 - settings.beta2)
        moments = moments_of(state, step, settings)
        update = direction(moments._replace(exp_avg=self.distortion.apply(state, moments.exp_avg)))
        update = scale_direction(state, update)
        if settings.p_lr > 0:
            state[_PREV_UPDATE] = update
        return update


def turn_basis(basis: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Move an orthogonal basis towards the eigenvectors of a covariance, largest eigenvalue first.

    Args:
        basis: Rows are the basis vectors, length x length; several at once with dimensions in front.
        covariance: Symmetric, same shape.

    Returns:
        The new basis, and for each of its rows the index of the row it grew from.

    Cost: one matrix product and one QR decomposition of the length.
    """
    shift = (covariance.diagonal(dim1=-2, dim2=-1).mean(-1) * _SHIFT).clamp_min(_MIN_SHIFT)
    power = covariance @ basis.mT + basis.mT * shift[..., None, None]
    order = (basis.mT * power).sum(-2).argsort(dim=-1, descending=True, stable=True)
    turned, _ = torch.linalg.qr(power.gather(-1, order.unsqueeze(-2).expand_as(power)))
    return turned.mT.contiguous(), order
