"""A step does not wait for the device, except where torch itself may: in a QR decomposition."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.warpadam.gpu.steps import (
    decomposes,
    make_optimizer,
    make_params,
    set_grads,
    updates_p,
    waiting_is_an_error,
)
from warpadam import STRATEGIES, Learner, Strategy

FACTORS = {"row_factor", "column_factor", "blocks"}


@pytest.mark.parametrize("lr", ["number", "tensor"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_no_step_between_two_decompositions_waits(strategy: Strategy, lr: str, device: torch.device) -> None:
    params = make_params(device, torch.float32)
    optimizer = make_optimizer(params, strategy, weight_decay=0.1)
    if lr == "tensor":
        optimizer.param_groups[0]["lr"] = torch.tensor(0.01, device=device)
    changed = []
    for step in range(1, 14):
        set_grads(params, step)
        before = optimizer.get_distortion(params[0])
        if step == 1 or decomposes(strategy, step):
            optimizer.step()
        else:
            with waiting_is_an_error(device):
                optimizer.step()
        after = optimizer.get_distortion(params[0])
        if any(not torch.equal(before[name], after[name]) for name in FACTORS & before.keys()):
            changed.append(step)
    if strategy.learner in (Learner.ROTATION, Learner.WHITENING):
        assert changed == [step for step in range(1, 14) if updates_p(strategy, step)]


def test_on_cuda_waiting_would_be_noticed(device: torch.device) -> None:
    value = torch.ones(1, device=device)
    noticed: Any = pytest.raises(RuntimeError, match="synchroniz") if device.type == "cuda" else nullcontext()
    with noticed, waiting_is_an_error(device):
        value.item()
