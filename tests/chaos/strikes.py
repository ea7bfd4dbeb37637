# Strikes inside the processes of the service: replaces functions by ones that strike at one call, also in slots.
from __future__ import annotations

import functools
import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos.points import DYING, Plan, first_half, send


def at_the_call(plan: Plan, worker_pid: int) -> Callable[[], None]:
    """Return a function that counts its calls in each turn, and strikes at the one of the plan."""
    calls = Counter[int]()

    def strike() -> None:
        turn, nth = plan.turn()
        calls[turn] += 1
        if calls[turn] == nth:
            plan.strike(turn, worker_pid)

    return strike


def install(plan: Plan, targets: tuple[str, ...], worker_pid: int) -> None:
    """Replace functions by ones that strike at the call of the plan and do what they always did."""
    strike = at_the_call(plan, worker_pid)

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def before(*args: Any, **options: Any) -> Any:
            strike()
            return original(*args, **options)

        @functools.wraps(original)
        def after(*args: Any, **options: Any) -> Any:
            answer = original(*args, **options)
            strike()
            return answer

        @functools.wraps(original)
        def half(*args: Any, **options: Any) -> Iterator[bytes]:
            first, second = first_half(original(*args, **options))
            yield first
            strike()
            yield second

        return {"before": before, "after": after, "half": half}[plan.at.when]

    for target in targets:
        module, _, name = target.partition(":")
        *owners, last = name.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        setattr(owner, last, around(getattr(owner, last)))


class Fragile:
    """Trains. It takes a plan into the slots: the moments that are in a slot, and slots that die while they start."""

    def __init__(self, plan: Plan, worker_pid: int) -> None:
        self._plan, self._worker_pid = plan, worker_pid

    def __call__(self, run: Any) -> Iterator[Any]:
        from service.engines.base import default_train

        if self._plan.at.where == "slot":
            _install_in_slot(self._plan, self._worker_pid)
        return default_train(run)

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self._plan, self._worker_pid)


def _unpickled(plan: Plan, worker_pid: int) -> Fragile:
    dying = Path(plan.folder) / DYING
    if os.getpid() != worker_pid and dying.exists():
        name = dying.read_text()
        dying.unlink()
        send(Path(plan.folder), name, [os.getpid()])
    return Fragile(plan, worker_pid)


@functools.cache
def _install_in_slot(plan: Plan, worker_pid: int) -> None:
    if plan.at.targets != ("step",):
        install(plan, plan.at.targets, worker_pid)
        return
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    strike = at_the_call(plan, worker_pid)
    register_optimizer_step_pre_hook(lambda *_: strike())
