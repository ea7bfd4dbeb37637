"""The interface of a learner, which is the whole update rule of a parameter: its moments, its P, and how P learns.

A rule holds no tensors and no shapes. It is given many parameters at once, so that elementwise work is one call over a
list of tensors (``torch._foreach_*``) and only matrix products are one call for each shape. ``stacks.py`` decides which
parameters are given together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from warpadam.adam import Moments
from warpadam.structures import Distortion, Factors

State = dict[str, Tensor]
"""Everything that the optimizer remembers about one parameter, by name."""

ELEMENTWISE: Final = frozenset({"exp_avg", "exp_avg_sq", "prev_grad", "prev_update"})
"""State entries that usually have one number for each element of the parameter."""

SKIPPED: Final = "skipped"
"""State entry that counts what was left out: gradients, covariances and meta-gradients that were not finite, or too
large to square."""

PREV_STEP: Final = "prev_step"
"""State entry, on the CPU as ``step``: the step at which the gradient or update that the next gradient will judge was
kept. 0 before there is one."""


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
        state: Changed in place. A rule neither adds, removes nor replaces entries.
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
    def init_state(self, distortion: Distortion, dtype: torch.dtype, device: torch.device, *, learns: bool) -> State:
        """Return the state before the first step, with P the exact identity.

        It has every entry that a later step needs, so a checkpoint of any step has the same entries.

        Args:
            distortion: The structure of P.
            dtype: Of all entries but the counters.
            device: Of all entries but the counters.
            learns: Whether ``p_lr`` is more than 0.
        """

    @abstractmethod
    def init_carried(self, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> Factors:
        """Return the tensors that make up a learned P, as they are before anything is learned.

        These are the tensors that may be carried to another run. A state may lack the optional ones.
        """

    def spreads(self, distortion: Distortion) -> bool:
        """Tell whether one element of the gradient can change how other elements move."""
        return distortion.mixes

    @abstractmethod
    def update(self, parts: Sequence[Part], settings: StepSettings) -> list[Tensor]:
        """Fold in one gradient of every part and return the directions, which are then multiplied by -lr.

        Args:
            parts: They may differ in the number of their steps, and in the optional entries of their states.
            settings: The group's numbers at this step.
        """


def init_moments(distortion: Distortion, dtype: torch.dtype, device: torch.device) -> State:
    """Return the state of Adam before its first step. The counter is a CPU tensor, as in torch.optim."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device="cpu"),
        SKIPPED: torch.zeros((), dtype=dtype, device=device),
        "exp_avg": torch.zeros(distortion.layout, dtype=dtype, device=device),
        "exp_avg_sq": torch.zeros(distortion.layout, dtype=dtype, device=device),
    }


def init_kept(name: str, distortion: Distortion, dtype: torch.dtype, device: torch.device) -> State:
    """Return the entries of a gradient or update that is kept until the next gradient judges it."""
    return {
        name: torch.zeros(distortion.layout, dtype=dtype, device=device),
        PREV_STEP: torch.zeros((), dtype=torch.float32, device="cpu"),
    }


def keep(parts: Sequence[Part], name: str, values: Sequence[Tensor], steps: Sequence[int]) -> None:
    """Copy a gradient or update of this step into every state, until the next gradient judges it."""
    torch._foreach_copy_([part.state[name] for part in parts], list(values))
    for part, step in zip(parts, steps, strict=True):
        part.state[PREV_STEP].fill_(step)


def is_kept(part: Part, step: int) -> bool:
    """Tell whether the step before ``step`` kept something for the gradient of ``step`` to judge."""
    return step > 1 and _first(part.state[PREV_STEP]) == step - 1


def count_steps(parts: Sequence[Part]) -> list[int]:
    """Advance the step counters and return the number of each part. They are on the CPU, so no device waits."""
    steps = [part.state["step"] for part in parts]
    torch._foreach_add_(steps, 1)
    return [_first(step) for step in steps]


def _first(counter: Tensor) -> int:
    """Return the value of a counter; for several parameters it is the same for all."""
    return int((counter[0] if counter.ndim else counter).item())


def norms(tensors: Sequence[Tensor], stack_dims: Sequence[int]) -> list[Tensor]:
    """Return the Frobenius norm of each tensor as a vector, with one number for each parameter that it holds.

    Args:
        tensors: At least one element each.
        stack_dims: For each tensor, how many leading dimensions count parameters: 0 or 1.
    """
    singles = [tensor for tensor, dims in zip(tensors, stack_dims, strict=True) if not dims]
    single = iter(torch._foreach_norm(singles) if singles else ())
    return [
        torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim))) if dims else next(single).view(1)
        for tensor, dims in zip(tensors, stack_dims, strict=True)
    ]


def moments_of(parts: Sequence[Part], steps: Sequence[int], settings: StepSettings) -> Moments:
    """Return the moments in the states, shared, not copied."""
    exp_avgs = [part.state["exp_avg"] for part in parts]
    exp_avg_sqs = [part.state["exp_avg_sq"] for part in parts]
    return Moments(exp_avgs, exp_avg_sqs, steps, settings.beta1, settings.beta2, settings.eps)
