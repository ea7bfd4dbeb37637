"""``step_profile``: which share of a step is spent on P.

It times steps with and without P, on copies of the same tensors on the same machine. You can call it at any time during
training.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Final, final

import torch
from typing_extensions import override

from warpadam.config import Learner, Limits, Placement, Structure
from warpadam.errors import InvalidConfigError
from warpadam.optimizer import WarpAdam
from warpadam.reports import table

_WARM_UP: Final = 3
"""Steps that are not timed, because they make the state."""

_SEED: Final = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepProfile:
    """Times of ``optimizer.step()`` in milliseconds. ``str()`` of it is a table.

    Attributes:
        steps: Number of timed steps.
        step_ms: Mean time of a step, including the updates of P.
        slowest_ms: Time of the slowest step, usually one that updates P.
        plain_ms: Mean time of a step of the same optimizer as plain Adam.
    """

    steps: int
    step_ms: float
    slowest_ms: float
    plain_ms: float

    @property
    def share(self) -> float:
        """The share of a step's time that is due to P, from 0 to 1."""
        return max(0.0, 1 - self.plain_ms / self.step_ms)

    @override
    def __str__(self) -> str:
        numbers = (f"{self.step_ms:.2f}", f"{self.slowest_ms:.2f}", f"{self.plain_ms:.2f}", f"{self.share:.0%}")
        return table([("step ms", "slowest ms", "plain Adam ms", "share of P"), numbers])


def step_profile(optimizer: WarpAdam, steps: int | None = None) -> StepProfile:
    """Time the optimizer's step against the same step of plain Adam, on copies of parameters and state.

    The parameters that have a gradient are stepped with a fixed random gradient; if none has one, all that need a
    gradient are. Plain Adam is WarpAdam with a frozen diagonal P, which is one multiplication for each element.

    Args:
        optimizer: It is not changed.
        steps: Number of steps to time. By default enough for two updates of P in every group.

    Raises:
        InvalidConfigError: ``steps`` is not a whole number of at least 1.
        UnsupportedParameterError: Ranks share parameters, so the optimizer cannot be copied.

    Cost: twice ``steps`` steps, and the memory of two copies of parameters and state.

    >>> profile = step_profile(WarpAdam(torch.nn.Linear(8, 8).parameters()), steps=5)
    >>> 0 <= profile.share < 1 and profile.step_ms <= profile.slowest_ms
    True
    """
    if steps is None:
        steps = max(20, 2 * max(group["meta_every"] for group in optimizer.param_groups))
    limits = Limits(1, whole=True)
    if not limits.allows(steps):
        raise InvalidConfigError("steps", steps, f"must be {limits}")
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
    """Give random gradients to the copies of parameters that have one, or to all copies if none has."""
    for group, copied_group in zip(optimizer.param_groups, copied.param_groups, strict=True):
        for param, own in zip(group["params"], copied_group["params"], strict=True):
            if param.grad is not None or (param.requires_grad and not some_move):
                generator = torch.Generator("cpu").manual_seed(_SEED)
                own.grad = torch.randn(param.shape, device="cpu", generator=generator).to(param)


def _times(optimizer: WarpAdam, steps: int) -> list[float]:
    """Return the milliseconds of each step after the warm-up."""
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
