"""Mixed precision: autocast, and a gradient scaler that skips a step which overflowed."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.warpadam.habits.mixed import loss_of, make_model, make_optimizer, tokens, train
from warpadam import STRATEGIES, Strategy


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_scaled_loss_gives_the_same_run_and_an_overflow_skips_the_step(strategy: Strategy) -> None:
    plain, scaled = make_model(), make_model()
    reference, optimizer = make_optimizer(plain, strategy), make_optimizer(scaled, strategy)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    for step in range(8):
        train(plain, reference, [step])
        if step in (3, 4):
            before = copy.deepcopy((scaled.state_dict(), optimizer.state_dict()["state"]))
            optimizer.zero_grad()
            scaler.scale(loss_of(scaled, tokens(step)) * float("inf")).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            assert all(torch.equal(now, before[0][name]) for name, now in scaled.state_dict().items())
            for key, state in optimizer.state_dict()["state"].items():
                assert all(torch.equal(value, before[1][key][name]) for name, value in state.items())
        optimizer.zero_grad()
        scaler.scale(loss_of(scaled, tokens(step))).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**8
    assert optimizer.skipped_updates == reference.skipped_updates == 0
    # the scale is a power of two, so scaling rounds nothing
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), scaled.parameters(), strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_under_autocast_everything_stays_finite_and_in_fp32(strategy: Strategy) -> None:
    model = make_model()
    optimizer = make_optimizer(model, strategy)
    first = sum(loss_of(model, tokens(step)).item() for step in range(5))
    for step in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, tokens(step))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert sum(loss_of(model, tokens(step)).item() for step in range(5)) < first
    for state in optimizer.state.values():
        assert {value.dtype for value in state.values()} == {torch.float32}
        assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_step_inside_autocast_is_the_step_outside(strategy: Strategy) -> None:
    inside, outside = make_model(), make_model()
    first, second = make_optimizer(inside, strategy), make_optimizer(outside, strategy)
    for step in range(6):
        for model, optimizer, on in ((inside, first, True), (outside, second, False)):
            optimizer.zero_grad()
            loss_of(model, tokens(step)).backward()  # type: ignore[no-untyped-call]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(inside.parameters(), outside.parameters(), strict=True))
