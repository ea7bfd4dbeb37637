"""The interface of a learner, which is the whole update rule of a parameter: its moments, its P, and how P learns.

A rule holds no tensors and no shapes. It is given many parameters at once, so that elementwise work is one call over a
list of tensors (``torch._foreach_*``) and only matrix products are one call for each shape. ``stacks.py`` decides which
parameters are given together.
"""

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
"""Everything that the optimizer remembers about one parameter, by name."""


class StepSettings(NamedTuple):
    """The numbers of a parameter group that a rule needs in one step; see :class:`~warpadam.WarpAdamConfig`."""

    beta1: float
    beta2: float
    eps: float
    p_lr: float
    meta_every: int
    p_decay: float
    cov_beta: float


class Part(NamedTuple):
    """One parameter in one step, or several of the same layout, stacked.

    Attributes:
        distortion: The structure of P. Gradients and directions are in its layout.
        state: Changed in place. Entries may come and go.
        grad: The gradient, in the layout and in the dtype of the state. A rule must not change or keep it. If it has
            one more dimension in front, it holds the gradients of several parameters, and every entry of the state
            holds theirs.
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
        """Return the tensors that make up a learned P, as they are before anything is learned.

        These are the tensors that may be carried to another run. A state may lack the optional ones.
        """

    @abstractmethod
    def update(self, parts: Sequence[Part], settings: StepSettings) -> list[Tensor]:
        """Fold in one gradient of every part and return the directions, which are then multiplied by -lr.

        Args:
            parts: All have made the same number of steps. Their states may differ in the optional entries.
            settings: The group's numbers at this step.
        """


def init_moments(distortion: Distortion, dtype: torch.dtype, device: torch.device) -> State:
    """Return the state of Adam before its first step. The counter is a CPU tensor, as in torch.optim."""
    return {
        "step": torch.tensor(0.0, dtype=torch.float32),
        "exp_avg": torch.zeros(distortion.layout, dtype=dtype, device=device),
        "exp_avg_sq": torch.zeros(distortion.layout, dtype=dtype, device=device),
    }


def count_step(parts: Sequence[Part]) -> int:
    """Advance the step counters, which agree, and return their value. They are on the CPU, so no device waits."""
    steps = [part.state["step"] for part in parts]
    torch._foreach_add_(steps, 1)
    return int(steps[0].view(-1)[0].item())


def moments_of(parts: Sequence[Part], step: int, settings: StepSettings) -> Moments:
    """Return the moments in the states, shared, not copied."""
    exp_avgs = [part.state["exp_avg"] for part in parts]
    exp_avg_sqs = [part.state["exp_avg_sq"] for part in parts]
    return Moments(exp_avgs, exp_avg_sqs, step, settings.beta1, settings.beta2, settings.eps)
