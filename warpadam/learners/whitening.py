# P follows the inverse roots of the running gradient covariances: the paper's own form, P g into the moments. Such a P
# is symmetric positive, so its step needs no way back. The first moment stays in raw gradient space, so a P that moves
# never sees stale momentum.
"""P that whitens the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.adam import direction
from warpadam.learners.base import Settings, State, UpdateRule, count_step, init_moments, moments_of
from warpadam.learners.normalised import SKIPPED
from warpadam.learners.scale import LOG_SCALE, learn_scale, scale_direction
from warpadam.structures import Factors, KroneckerDistortion
from warpadam.structures.kronecker import COLUMN, ROW

UPDATE_RMS: Final = 0.2
"""Root mean square of a matrix's update, as Muon has it: near that of AdamW in training, so one lr fits all tensors."""

POWER: Final = 0.5
"""Exponent of the inverse root on each side."""

DAMPING: Final = 1e-4
"""Added to the covariance's spectrum, as a fraction of its largest eigenvalue: P stretches at most 1/sqrt of it."""

_COVARIANCE: Final = {ROW: "row_covariance", COLUMN: "column_covariance"}

_PREV_UPDATE: Final = "prev_update"

_EARLY_REFRESHES: Final = (2, 4, 7)
"""Steps at which P is refreshed whatever ``meta_every`` says. Never at the first: the root of one gradient's covariance
would undo that gradient."""


@final
@dataclass(frozen=True, slots=True)
class WhiteningRule(UpdateRule):
    """theta <- theta - lr S rms(u(P h)), with P = A (x) B and h the nesterov momentum of the raw gradient.

    A = (L / lmax + damping I)^-power with L the running mean of G G^T and lmax its largest eigenvalue; B likewise from
    G^T G. Adam is blind to the constant by which this differs from (L + damping lmax I)^-power, and P stays near I in
    size. The second moment follows the square of P h, and the update is rescaled to ``UPDATE_RMS``.

    Attributes:
        distortion: Kronecker, with at least one axis that is mixed.

    State: ``exp_avg`` in raw gradient space, ``exp_avg_sq`` of the warped gradient, the factors, their covariances, a
    count of refreshes that were skipped, and with ``p_lr`` > 0 one learned scale and the update it is judged by.

    Cost: a refresh takes one symmetric eigendecomposition a side.

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244) for the place of P; Gupta et al. 2018 (Shampoo, arXiv 1802.09568)
    for the covariances; Liu et al. 2025 (arXiv 2502.16982) for the size of the update.
    """

    distortion: KroneckerDistortion

    @override
    def init_state(self, dtype: torch.dtype, device: torch.device) -> State:
        skipped = torch.zeros((), dtype=dtype, device=device)
        return {**init_moments(self.distortion, dtype, device), **self._factors(dtype, device), SKIPPED: skipped}

    @override
    def init_carried(self, dtype: torch.dtype, device: torch.device) -> Factors:
        return {**self._factors(dtype, device), LOG_SCALE: torch.zeros(1, dtype=dtype, device=device)}

    @override
    def update(self, state: State, grad: Tensor, settings: Settings) -> Tensor:
        step = count_step(state)
        prev_update = state.pop(_PREV_UPDATE, None)
        if settings.p_lr > 0:
            if LOG_SCALE not in state:
                state[LOG_SCALE] = grad.new_zeros((*grad.shape[:-2], 1))
            if prev_update is not None:
                learn_scale(state, grad, prev_update, settings.p_lr, settings.p_decay)
        self._follow(state, grad, settings.cov_beta)
        if step in _EARLY_REFRESHES or (step > 1 and step % settings.meta_every == 0):
            self._refresh(state)
        update = scale_direction(state, self._direction(state, grad, step, settings))
        if settings.p_lr > 0:
            state[_PREV_UPDATE] = update
        return update

    def _factors(self, dtype: torch.dtype, device: torch.device) -> Factors:
        factors = self.distortion.init_factors(dtype, device)
        return {**factors, **{_COVARIANCE[name]: torch.zeros_like(factor) for name, factor in factors.items()}}

    def _follow(self, state: State, grad: Tensor, cov_beta: float) -> None:
        for axis, name in enumerate(_COVARIANCE):
            if name in state:
                vectors = grad if axis == 0 else grad.mT
                state[_COVARIANCE[name]].lerp_(vectors @ vectors.mT, 1 - cov_beta)

    def _refresh(self, state: State) -> None:
        """Recompute the factors; keep them, and count it, where a covariance is not finite."""
        names = [name for name in _COVARIANCE if name in state]
        usable = torch.stack([state[_COVARIANCE[name]].isfinite().all(-1).all(-1) for name in names]).all(0)
        state[SKIPPED] += (~usable).to(state[SKIPPED].dtype)
        for name in names:
            covariance = torch.where(usable[..., None, None], state[_COVARIANCE[name]], 0.0)
            state[_COVARIANCE[name]].copy_(covariance)  # one that was not finite starts anew
            positive = (covariance.diagonal(dim1=-2, dim2=-1).amax(-1) > 0)[..., None, None]
            state[name].copy_(torch.where(positive, inverse_root(covariance), state[name]))

    def _direction(self, state: State, grad: Tensor, step: int, settings: Settings) -> Tensor:
        """Return the update of fixed size that Adam makes of the warped nesterov momentum."""
        beta1, beta2 = settings.beta1, settings.beta2
        state["exp_avg"].lerp_(grad, 1 - beta1)
        ahead = torch.add((1 - beta1) * grad, state["exp_avg"], alpha=beta1 / (1 - beta1**step))
        warped = self.distortion.apply(state, ahead)
        state["exp_avg_sq"].mul_(beta2).addcmul_(warped, warped, value=1 - beta2)
        update = direction(moments_of(state, step, settings)._replace(exp_avg=warped, beta1=0.0))
        rms = update.square().mean((-2, -1), keepdim=True).sqrt_()
        return update.mul_(torch.where(rms > 0, UPDATE_RMS / rms, 0.0))


def inverse_root(covariance: Tensor) -> Tensor:
    """Return (L / lmax + damping I)^-power of a symmetric L >= 0, or of several with dimensions in front.

    Args:
        covariance: Finite, length x length; of zeros the result has no meaning but is finite.

    >>> inverse_root(torch.tensor([[1.0, 0.0], [0.0, 0.25]])).round(decimals=2)
    tensor([[1., 0.],
            [0., 2.]])
    """
    size = covariance.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(covariance / torch.where(size > 0, size, 1.0))
    largest = values[..., -1:]
    roots = (values.clamp_min(0) / torch.where(largest > 0, largest, 1.0) + DAMPING) ** -POWER
    root: Tensor = (vectors * roots.unsqueeze(-2)) @ vectors.mT
    return root
