"""The interface of a learner, which is the whole update rule of a parameter: its moments, its P, and how P learns.

A rule holds no tensors and no shapes. It is given one parameter, or several that ``stacks.py`` has stacked into one
tensor. For small tensors the number of calls decides how long a step takes, so a rule makes few.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor

from warpadam.adam import Moments
from warpadam.structures import Distortion, Factors

State = dict[str, Tensor]
"""Everything that the optimizer remembers about one parameter, by name."""

ELEMENTWISE: Final = frozenset({"exp_avg", "exp_avg_sq", "prev_grad", "prev_update"})
"""State entries that usually have one number for each element of the parameter."""

MOMENTUM: Final = frozenset({"exp_avg", "prev_grad", "prev_update"})
"""State entries that ``momentum_dtype`` may store in bf16: they forget quickly, so that its three digits are enough."""

SKIPPED: Final = "skipped"
"""State entry that counts what was left out: gradients, covariances and meta-gradients that were not finite, or too
large to square."""

PREV_STEP: Final = "prev_step"
"""State entry, on the CPU as ``step``: the step at which the gradient or update that the next gradient will judge was
kept. 0 before there is one."""


class StepSettings(NamedTuple):
    """What a rule needs to know of a parameter group in one step; see :class:`~warpadam.WarpAdamConfig`.

    ``is_judged`` tells whether P, or its scale, learns from how this step changes the next gradient. It is False at an
    lr of 0, when nothing moves, and below.
    """

    beta1: float
    beta2: float
    eps: float
    p_lr: float
    meta_every: int
    p_decay: float
    cov_beta: float
    is_judged: bool = True


class Padding(NamedTuple):
    """How matrices of different shapes are padded with zeros.

    Attributes:
        rows: Rows of each, parameters x 1 x 1.
        columns: Columns of each, in the same shape.
        shapes: For each entry of the state, its shape for each parameter.
    """

    rows: Tensor
    columns: Tensor
    shapes: Mapping[str, Sequence[tuple[int, ...]]]


class Part(NamedTuple):
    """One parameter in one step, or several, stacked.

    Attributes:
        distortion: The structure of P. Gradients and directions are in its layout.
        state: Changed in place. A rule neither adds, removes nor replaces entries.
        grad: The gradient, in the layout and in the dtype of the state. A rule must not change or keep it. If it has
            one more dimension in front, it holds the gradients of several parameters, and every entry of the state
            holds theirs.
        padding: How gradients and state are padded, if the parameters are matrices of different shapes.
    """

    distortion: Distortion
    state: State
    grad: Tensor
    padding: Padding | None = None

    @property
    def stack_dims(self) -> int:
        """Dimensions in front of the layout that count parameters: 0 or 1."""
        return self.grad.ndim - len(self.distortion.layout)

    def each(self, numbers: Sequence[int], dims: int) -> int | Tensor:
        """Return the number of all parameters if it is one, otherwise a tensor of them with ``dims`` more axes."""
        if numbers.count(numbers[0]) == len(numbers):
            return numbers[0]
        return self.grad.new_tensor(numbers).view(-1, *[1] * dims)


@dataclass(frozen=True, slots=True)
class UpdateRule(ABC):
    """How parameters move, and how their P learns. Equal rules treat parameters alike.

    Attributes:
        joins_shapes: Whether matrices of different shapes may be padded with zeros and stepped together.
        joins_steps: Whether parameters that have made different numbers of steps may be stepped together.
    """

    joins_shapes: ClassVar[bool] = False
    joins_steps: ClassVar[bool] = False

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

    def recomputable(self, distortion: Distortion) -> Mapping[str, str]:  # noqa: ARG002 - by default there is nothing
        """Return the entries of a state that :meth:`recompute` makes again, each with the entry that it is made of."""
        return {}

    def recompute(self, state: Mapping[str, Tensor], name: str, source: Tensor) -> Tensor:
        """Return a recomputable entry as an update of P would make it now.

        Args:
            state: The entries of one parameter.
            name: The entry.
            source: The entry that it is made of.
        """
        raise NotImplementedError

    def spreads(self, distortion: Distortion) -> bool:
        """Tell whether one element of the gradient can change how other elements move."""
        return distortion.mixes

    @abstractmethod
    def update(self, part: Part, settings: StepSettings) -> Tensor:
        """Fold in one gradient and return the direction, which is then multiplied by -lr.

        Args:
            part: One parameter, or several.
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


def keep(part: Part, name: str, value: Tensor) -> None:
    """Copy a gradient or update of this step into the state, until the next gradient judges it."""
    part.state[name].copy_(value)
    part.state[PREV_STEP].copy_(part.state["step"])


def are_kept(part: Part, steps: Sequence[int]) -> list[bool]:
    """Tell for each parameter whether the step before kept something for this step's gradient to judge."""
    return [step > 1 and kept == step - 1 for kept, step in zip(_numbers(part.state[PREV_STEP]), steps, strict=True)]


def count_steps(part: Part) -> list[int]:
    """Advance the step counter and return the number of each parameter. It is on the CPU, so no device waits."""
    return _numbers(part.state["step"].add_(1))


def _numbers(counter: Tensor) -> list[int]:
    return [int(number) for number in counter.view(-1).tolist()]


def moments_of(part: Part, step: int | Tensor, settings: StepSettings) -> Moments:
    """Return the moments in the state, shared, not copied."""
    return Moments(part.state["exp_avg"], part.state["exp_avg_sq"], step, settings.beta1, settings.beta2, settings.eps)
