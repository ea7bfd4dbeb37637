# The contract of a learner: it owns the whole update rule of a parameter, its moments, its P and how P learns. A rule
# holds no tensors and no shapes; it is given many parameters at once, so that elementwise work is one call over a list
# (torch._foreach_*) and only matrix products are a call for each shape. Who is given together: see stacks.py.
"""The interface of every update rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from warpadam.adam import Moments
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


class Part(NamedTuple):
    """One parameter in one step, or several that have one layout, stacked.

    Attributes:
        distortion: The structure of P; gradients and directions are in its layout.
        state: Changed in place; entries may come and go.
        grad: In the layout and of the state's dtype; must not be changed or kept. With one more dimension in front it
            holds the gradients of several parameters, and so does every entry of the state.
    """

    distortion: Distortion
    state: State
    grad: Tensor

    @property
    def stack_dims(self) -> int:
        """Dimensions in front of the layout that count parameters: 0 or 1."""
        return self.grad.ndim - len(self.distortion.layout)


@dataclass(frozen=True, slots=True)
class UpdateRule(ABC):
    """How parameters move, and how their P learns. Equal rules treat parameters alike."""

    @abstractmethod
    def init_state(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> State:
        """Return the state before the first step, with P the exact identity."""

    @abstractmethod
    def init_carried(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> Factors:
        """Return what a learned P consists of, as it is before anything was learned.

        These are the tensors that may be carried to another run; a state may lack the optional ones.
        """

    @abstractmethod
    def update(self, parts: Sequence[Part], settings: Settings) -> list[Tensor]:
        """Fold in one gradient of every part and return the directions that are then multiplied by -lr.

        Args:
            parts: All have made the same number of steps; their states may differ in the optional entries.
            settings: The group's numbers at this step.
        """


def init_moments(distortion: Distortion, dtype: torch.dtype, device: torch.device) -> State:
    """Return the state of Adam before its first step; the counter is a CPU tensor, as in torch.optim."""
    return {
        "step": torch.tensor(0.0, dtype=torch.float32),
        "exp_avg": torch.zeros(distortion.layout, dtype=dtype, device=device),
        "exp_avg_sq": torch.zeros(distortion.layout, dtype=dtype, device=device),
    }


def count_step(parts: Sequence[Part]) -> int:
    """Advance the step counters, which agree, and return them; on the CPU, so no device waits."""
    steps = [part.state["step"] for part in parts]
    torch._foreach_add_(steps, 1)
    return int(steps[0].view(-1)[0].item())


def moments_of(parts: Sequence[Part], step: int, settings: Settings) -> Moments:
    """Return the moments in the states, shared, not copied."""
    exp_avgs = [part.state["exp_avg"] for part in parts]
    exp_avg_sqs = [part.state["exp_avg_sq"] for part in parts]
    return Moments(exp_avgs, exp_avg_sqs, step, settings.beta1, settings.beta2, settings.eps)
