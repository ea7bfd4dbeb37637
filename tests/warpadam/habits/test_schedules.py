"""Schedulers write to the groups, and each step reads lr and betas from there.

Checked against AdamW under the same schedule, and by its effect under every learner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from tests.warpadam.habits.mixed import loss_of, make_model, make_optimizer, tokens
from warpadam import STRATEGIES, Strategy, WarpAdam

Make = Callable[[torch.optim.Optimizer], Any]
SCHEDULES: dict[str, Make] = {
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 4),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12, cycle_momentum=True),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=True),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.ExponentialLR(o, 0.5)], [3]
    ),
}


def _run(make: Make, optimizer: torch.optim.Optimizer, param: nn.Parameter) -> list[tuple[float, Any]]:
    schedule = make(optimizer)
    seen = []
    for step in range(10):
        generator = torch.Generator().manual_seed(step)
        param.grad = torch.randn(param.shape, dtype=param.dtype, generator=generator)
        optimizer.step()
        schedule.step(*([1.0] if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else []))
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]))
    return seen


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=list(SCHEDULES))
def test_with_p_the_identity_a_schedule_does_what_it_does_to_adamw(make: Make) -> None:
    ours, theirs = (nn.Parameter(torch.ones(4, 3, dtype=torch.float64)) for _ in range(2))
    numbers: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}
    seen = _run(make, WarpAdam([ours], **numbers, learner="frozen", betas=(0.9, 0.95)), ours)
    assert seen == _run(make, torch.optim.AdamW([theirs], **numbers, betas=(0.9, 0.95)), theirs)
    assert len(set(seen)) > 3
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=list(SCHEDULES))
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_schedule_restored_with_its_optimizer_goes_on_alike(strategy: Strategy, make: Make) -> None:
    models = [make_model(), make_model()]
    optimizers = [make_optimizer(model, strategy, lr=0.05) for model in models]
    schedules = [make(optimizer) for optimizer in optimizers]
    for step in range(4):
        _step(models[0], optimizers[0], schedules[0], step)
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    schedules[1].load_state_dict(schedules[0].state_dict())
    for step in range(4, 8):
        for model, optimizer, schedule in zip(models, optimizers, schedules, strict=True):
            _step(model, optimizer, schedule, step)
    assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def _step(model: nn.Module, optimizer: WarpAdam, schedule: Any, step: int) -> None:
    optimizer.zero_grad()
    loss = loss_of(model, tokens(step))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    schedule.step(*([loss.item()] if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else []))
