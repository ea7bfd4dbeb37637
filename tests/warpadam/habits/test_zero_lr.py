"""P learns nothing from a step that was not made: at an lr of 0, or against the gradient at an lr below 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import STRATEGIES, Strategy, WarpAdam
from warpadam.learners.scale import LOG_SCALE

LEARNS = [strategy for strategy in STRATEGIES if strategy.learner != "frozen"]
SETTINGS: dict[str, Any] = {"p_lr": 0.1, "meta_every": 2, "p_decay": 0.01}


def _make(strategy: Strategy, lr: Any = 0.01, **settings: Any) -> tuple[nn.Parameter, WarpAdam]:
    param = nn.Parameter(torch.ones(6, 4))
    torch.manual_seed(0)  # for low_rank
    return param, WarpAdam([param], lr, **strategy._asdict(), **{**SETTINGS, **settings})


def _step(param: nn.Parameter, optimizer: WarpAdam, steps: range) -> None:
    for step in steps:
        param.grad = 1 + torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        optimizer.step()


def _learned(param: nn.Parameter, optimizer: WarpAdam) -> dict[str, Tensor]:
    """Return what the meta-gradient moves: a copy of the learned scale, or of P if there is none."""
    known = optimizer.get_distortion(param)
    return {LOG_SCALE: known[LOG_SCALE]} if LOG_SCALE in known else known


def _is_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("lr", [0.0, -0.01, torch.tensor(0.0)], ids=str)
@pytest.mark.parametrize("strategy", LEARNS, ids=str)
def test_p_learns_nothing_without_a_step_along_the_gradient(strategy: Strategy, lr: Any) -> None:
    param, optimizer = _make(strategy)
    start = _learned(param, optimizer)
    optimizer.param_groups[0]["lr"] = lr
    _step(param, optimizer, range(12))
    optimizer.param_groups[0]["lr"] = 0.01
    _step(param, optimizer, range(12, 13))  # this gradient still judges a step at the other lr
    assert _is_same(_learned(param, optimizer), start)
    _step(param, optimizer, range(13, 17))
    if strategy[:2] != ("diagonal", "pre"):
        assert not _is_same(_learned(param, optimizer), start)


@pytest.mark.parametrize("strategy", LEARNS, ids=str)
def test_what_was_learned_before_stays_while_the_lr_is_zero(strategy: Strategy) -> None:
    param, optimizer = _make(strategy)
    _step(param, optimizer, range(9))
    optimizer.param_groups[0]["lr"] = 0.0
    _step(param, optimizer, range(9, 10))  # judges the last step before
    before = _learned(param, optimizer)
    _step(param, optimizer, range(10, 20))
    after = _learned(param, optimizer)
    if strategy.learner == "rotation":  # the scale is sorted with the basis
        before, after = ({name: value.sort().values for name, value in known.items()} for known in (before, after))
    assert _is_same(before, after)


@pytest.mark.parametrize("strategy", LEARNS, ids=str)
def test_a_group_without_an_lr_learns_nothing_beside_one_that_learns_as_alone(strategy: Strategy) -> None:
    alone, single = _make(strategy)
    params = [nn.Parameter(torch.ones(6, 4)) for _ in range(2)]
    torch.manual_seed(0)
    both = WarpAdam([{"params": params[:1]}, {"params": params[1:]}], 0.01, **strategy._asdict(), **SETTINGS)
    for param in params:
        both.set_distortion(param, single.get_distortion(alone))
    start = _learned(params[1], both)
    for step in range(12):
        both.param_groups[1]["lr"] = 0.0 if step < 10 else 0.01
        for param in params:
            param.grad = 1 + torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        both.step()
        _step(alone, single, range(step, step + 1))
        assert _is_same(_learned(params[1], both), start) or step > 10
    torch.testing.assert_close(_learned(params[0], both), _learned(alone, single), rtol=1e-4, atol=1e-5)
    assert torch.count_nonzero(params[1].detach() - 1) > 0
