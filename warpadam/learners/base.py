# The contract of a learner: it owns the whole update rule of one parameter, its moments, its P and how P learns. A rule
# holds shapes only; tensors live in the state that the optimizer keeps. Parameters of equal shape and strategy share
# one rule object, and one call of it serves a whole stack of them: see stacks.py.
"""The interface of every update rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from warpadam.adam import Moments, direction, update_moments
from warpadam.placements import Warp, unwarp_direction, warp_gradient
from warpadam.structures import Distortion, Factors

State = dict[str, Tensor]
"""Everything remembered about one parameter, by name."""


class Settings(NamedTuple):
    """The numbers of a parameter group that a rule needs in one step; see WarpAdamConfig."""

    beta1: float
    beta2: float
    eps: float
    p_lr: float
    meta_every: int
    p_decay: float
    cov_beta: float


@dataclass(frozen=True, slots=True)
class UpdateRule(ABC):
    """How one parameter moves, and how its P learns.

    Attributes:
        distortion: The structure of P; gradients and directions are in its layout.
    """

    distortion: Distortion

    @abstractmethod
    def init_state(self, dtype: torch.dtype, device: torch.device) -> State:
        """Return the state before the first step, with P the exact identity."""

    @abstractmethod
    def init_carried(self, dtype: torch.dtype, device: torch.device) -> Factors:
        """Return what a learned P consists of, as it is before anything was learned.

        These are the tensors that may be carried to another run; a state may lack the optional ones.
        """

    @abstractmethod
    def update(self, state: State, grad: Tensor, settings: Settings) -> Tensor:
        """Fold in one gradient and return the direction that is then multiplied by -lr.

        Args:
            state: Changed in place; entries may come and go.
            grad: In the layout and of the state's dtype; must not be changed or kept. With one more dimension in front
                it holds the gradients of several parameters, and so does every entry of the state.
            settings: The group's numbers at this step.
        """


def init_moments(distortion: Distortion, dtype: torch.dtype, device: torch.device) -> State:
    """Return the state of Adam before its first step; the counter is a CPU tensor, as in torch.optim."""
    return {
        "step": torch.tensor(0.0, dtype=torch.float32),
        "exp_avg": torch.zeros(distortion.layout, dtype=dtype, device=device),
        "exp_avg_sq": torch.zeros(distortion.layout, dtype=dtype, device=device),
    }


def count_step(state: State) -> int:
    """Advance the step counter, which stacked parameters share, and return it; on the CPU, so no device waits."""
    state["step"] += 1
    return int(state["step"].view(-1)[0].item())


def moments_of(state: State, step: int, settings: Settings) -> Moments:
    """Return the moments in ``state``, shared, not copied."""
    return Moments(state["exp_avg"], state["exp_avg_sq"], step, settings.beta1, settings.beta2, settings.eps)


def warped_adam_step(warp: Warp, moments: Moments, grad: Tensor) -> Tensor:
    """Return the direction of one plain step: moments of the warped gradient, mapped back.

    Args:
        warp: P and its place.
        moments: The moments with the counter already advanced; changed in place.
        grad: In the layout.
    """
    update_moments(moments, warp_gradient(warp, grad))
    return unwarp_direction(warp, direction(moments))
