"""``torch.compile`` around a step: it runs as it is, and every update is what it is without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from warpadam import STRATEGIES, Strategy, WarpAdam

STEPS = 12


def _train(strategy: Strategy, compiled: Callable[[Any], Any], whole: bool) -> list[Tensor]:
    """Train, with the step or the whole training step compiled, and return the parameters at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6))
    optimizer = WarpAdam(model.named_parameters(), 0.01, **strategy._asdict(), meta_every=2, rank=2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=STEPS)
    batch = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))

    def train_on(batch: Tensor) -> None:
        optimizer.zero_grad()
        (model(batch) - batch).square().mean().backward()
        optimizer.step()

    if whole:
        train_on = compiled(train_on)
    else:
        optimizer.step = compiled(optimizer.step)  # type: ignore[method-assign]
    for _ in range(STEPS):
        train_on(batch)
        schedule.step()
    return [param.detach() for param in model.parameters()]


@pytest.mark.parametrize("whole", [False, True], ids=["step", "training step"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_compiled_step_changes_nothing(strategy: Strategy, whole: bool) -> None:
    torch.compiler.reset()
    counters.clear()
    compiled = _train(strategy, lambda function: torch.compile(function, backend="eager"), whole)
    assert counters["stats"]["unique_graphs"] <= 2, "forward and backward"
    plain = _train(strategy, lambda function: function, whole)
    assert all(map(torch.equal, compiled, plain))


def test_the_compiler_is_not_imported_with_the_optimizer() -> None:
    code = "import sys, warpadam.optimizer; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
