"""A profile times copies: the optimizer that it profiles is not changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from warpadam import InvalidConfigError, WarpAdam, param_groups, step_profile
from warpadam.profiling import StepProfile


def _trained(**settings: Any) -> tuple[nn.Module, WarpAdam]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    optimizer = WarpAdam(param_groups(model, **settings))
    model(torch.randn(4, 64)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def test_the_run_is_left_as_it_is() -> None:
    model, optimizer = _trained()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    random = torch.get_rng_state()
    step_profile(optimizer, 3)
    assert all(
        torch.equal(now, then) for now, then in zip(model.state_dict().values(), before[0].values(), strict=True)
    )
    for state, then in zip(optimizer.state_dict()["state"].values(), before[1].values(), strict=True):
        assert set(state) == set(then)
        assert all(torch.equal(state[name], then[name]) for name in then)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_times_are_of_the_steps_of_both_and_p_has_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is one that only steps move: 4 s where P is updated, 2 s where it is not, 1 s for plain Adam."""
    now, real_step = 0.0, WarpAdam.step

    def step(optimizer: WarpAdam) -> None:
        nonlocal now
        real_step(optimizer)
        group = optimizer.param_groups[0]
        update = optimizer.state[group["params"][0]]["step"] % group["meta_every"] == 0
        now += 1 if group["learner"] == "frozen" else 4 if update else 2

    _, optimizer = _trained(learner="rotation", meta_every=5)
    monkeypatch.setattr(WarpAdam, "step", step)
    monkeypatch.setattr("warpadam.profiling.time.perf_counter", lambda: now)
    profile = step_profile(optimizer, 10)
    assert profile == StepProfile(steps=10, step_ms=2400, slowest_ms=4000, plain_ms=1000)
    assert profile.share == pytest.approx(1 - 1 / 2.4)


def test_two_updates_of_p_are_timed_if_nothing_is_said() -> None:
    _, optimizer = _trained(meta_every=15)
    assert step_profile(optimizer).steps == 30


def test_it_works_before_the_first_gradient() -> None:
    optimizer = WarpAdam(nn.Linear(4, 4).parameters())
    assert step_profile(optimizer, 2).step_ms > 0
    assert not optimizer.state


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_a_bad_number_of_steps_is_refused(steps: Any) -> None:
    with pytest.raises(InvalidConfigError, match="steps: "):
        step_profile(_trained()[1], steps)


def test_it_prints_as_a_table() -> None:
    text = str(StepProfile(steps=4, step_ms=2.0, slowest_ms=3.0, plain_ms=0.5))
    assert text.splitlines()[1].split() == ["2.00", "3.00", "0.50", "75%"]
