# What P costs in a step: the only honest way is to time steps with and without it, on the same tensors of the same
# machine. Works on copies, so a training run may ask at any time, and pays nothing when it does not.
"""The share of a step that is spent on P."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Final, final

import torch
from typing_extensions import override

from warpadam.config import Learner, Placement, Structure
from warpadam.errors import InvalidConfigError
from warpadam.optimizer import WarpAdam
from warpadam.reports import table

_WARM_UP: Final = 3
"""Steps that are not timed: they make the state."""

_SEED: Final = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepProfile:
    """Mean times of ``optimizer.step()``, in milliseconds; ``str()`` of it is a table.

    Attributes:
        steps: Steps that were timed.
        step_ms: Of a step as it is, the updates of P spread over the steps.
        slowest_ms: Of the slowest step: usually one that updates P.
        plain_ms: Of a step of the same optimizer as plain Adam.
    """

    steps: int
    step_ms: float
    slowest_ms: float
    plain_ms: float

    @property
    def share(self) -> float:
        """Part of a step's time that is due to P, 0 to 1."""
        return max(0.0, 1 - self.plain_ms / self.step_ms)

    @override
    def __str__(self) -> str:
        numbers = (f"{self.step_ms:.2f}", f"{self.slowest_ms:.2f}", f"{self.plain_ms:.2f}", f"{self.share:.0%}")
        return table([("step ms", "slowest ms", "plain Adam ms", "share of P"), numbers])


def step_profile(optimizer: WarpAdam, steps: int | None = None) -> StepProfile:
    """Time the optimizer's step against the same step as plain Adam, on copies of parameters and state.

    Every parameter that has a gradient now, or that needs one if none has, is stepped along a fixed random gradient.
    Plain Adam is WarpAdam itself with a frozen diagonal P, one multiplication an element.

    Args:
        optimizer: Left as it is.
        steps: Steps to time; at least two updates of P of every group if not given.

    Raises:
        InvalidConfigError: ``steps`` is not a whole number above 0.

    Cost: twice ``steps`` steps, and the memory of two copies of parameters and state.

    >>> profile = step_profile(WarpAdam(torch.nn.Linear(8, 8).parameters()), steps=5)
    >>> 0 <= profile.share < 1 and profile.step_ms <= profile.slowest_ms
    True
    """
    if steps is None:
        steps = max(20, 2 * max(group["meta_every"] for group in optimizer.param_groups))
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidConfigError("steps", steps, "must be a whole number of at least 1")
    warped, plain = copy.deepcopy(optimizer), copy.deepcopy(optimizer)
    plain.state.clear()
    for group in plain.param_groups:
        group.update(structure=Structure.DIAGONAL, placement=Placement.PRE, learner=Learner.FROZEN)
    some_move = any(param.grad is not None for group in optimizer.param_groups for param in group["params"])
    for copied in (warped, plain):
        _give_gradients(optimizer, copied, some_move)
    step_times, plain_times = _times(warped, steps), _times(plain, steps)
    return StepProfile(
        steps=steps,
        step_ms=sum(step_times) / steps,
        slowest_ms=max(step_times),
        plain_ms=sum(plain_times) / steps,
    )


def _give_gradients(optimizer: WarpAdam, copied: WarpAdam, some_move: bool) -> None:
    """Set gradients where the original has them, or everywhere if it has none; a copy of a parameter has none."""
    for group, copied_group in zip(optimizer.param_groups, copied.param_groups, strict=True):
        for param, own in zip(group["params"], copied_group["params"], strict=True):
            if param.grad is not None or (param.requires_grad and not some_move):
                generator = torch.Generator().manual_seed(_SEED)
                own.grad = torch.randn(param.shape, generator=generator).to(param)


def _times(optimizer: WarpAdam, steps: int) -> list[float]:
    """Return the milliseconds of each step, after a few that make the state."""
    found = []
    for _ in range(_WARM_UP + steps):
        _wait()
        start = time.perf_counter()
        optimizer.step()
        _wait()
        found.append((time.perf_counter() - start) * 1e3)
    return found[_WARM_UP:]


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
