"""Every kind of parameter, in every layout, with every strategy; wrapping a model changes nothing."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from tests.warpadam.habits.mixed import loss_of, make_model, make_optimizer, tokens, train
from warpadam import STRATEGIES, Learner, Strategy, UnsupportedParameterError, WarpAdam

LEARNING = [strategy for strategy in STRATEGIES if strategy.learner != Learner.FROZEN]
ROTATION = next(strategy for strategy in STRATEGIES if strategy.learner == Learner.ROTATION)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_model_of_all_kinds_of_parameters_learns(strategy: Strategy) -> None:
    model = make_model()
    optimizer = make_optimizer(model, strategy)
    fixed, unused = copy.deepcopy(model.fixed), copy.deepcopy(model.unused)
    first = sum(loss_of(model, tokens(step)).item() for step in range(5))
    train(model, optimizer, range(40))
    last = sum(loss_of(model, tokens(step)).item() for step in range(5))
    assert last < 0.9 * first
    for kept, module in ((fixed, model.fixed), (unused, model.unused)):
        assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), module.parameters(), strict=True))
        assert not any(param in optimizer.state for param in module.parameters())
    assert model.out.weight is model.table.weight
    assert optimizer.state[model.gain]["step"] == optimizer.state[model.nothing]["step"] == 40


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_channels_last_parameters_and_gradients_move_as_contiguous_ones(strategy: Strategy) -> None:
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        start = torch.linspace(-1, 1, 72, dtype=torch.float64).view(4, 2, 3, 3).contiguous(memory_format=memory_format)
        param = nn.Parameter(start)
        optimizer = WarpAdam([param], 0.01, **strategy._asdict(), meta_every=2, max_dim=30, block_size=20)
        for step in range(6):
            param.grad = (param.detach() * (step + 1)).cos().contiguous(memory_format=memory_format)
            optimizer.step()
        assert param.is_contiguous(memory_format=memory_format)
        results.append(param.detach())
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_clearing_gradients_either_way_is_the_same_where_there_is_always_one(strategy: Strategy) -> None:
    results = []
    for to_none in (True, False):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        with torch.no_grad():
            for param in model.parameters():
                param.copy_(torch.linspace(-1, 1, param.numel()).view_as(param))
        optimizer = make_optimizer(model, strategy)
        for step in range(8):
            optimizer.zero_grad(set_to_none=to_none)
            model(torch.full((2, 3), step / 4)).square().sum().backward()
            optimizer.step()
        results.append([param.detach() for param in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_two_half_batches_are_one_batch(strategy: Strategy) -> None:
    whole, halves = make_model(torch.float64), make_model(torch.float64)
    first, second = make_optimizer(whole, strategy), make_optimizer(halves, strategy)
    for step in range(6):
        batch = tokens(step)
        for optimizer in (first, second):
            optimizer.zero_grad()
        _mean_square(whole, batch).backward()
        for part in batch.chunk(2):
            (_mean_square(halves, part) / 2).backward()
        for optimizer in (first, second):
            optimizer.step()
    for ours, theirs in zip(halves.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def _mean_square(model: nn.Module, batch: torch.Tensor) -> Any:
    return (model(batch) - torch.arange(7)).square().mean()


@pytest.mark.parametrize("strategy", LEARNING, ids=str)
def test_maximize_of_the_opposite_is_the_same(strategy: Strategy) -> None:
    down, up = make_model(), make_model()
    train(down, make_optimizer(down, strategy), range(6))
    optimizer = WarpAdam(
        up.named_parameters(),
        0.01,
        **strategy._asdict(),
        meta_every=2,
        p_lr=0.02,
        rank=2,
        max_dim=8,
        block_size=16,
        maximize=True,
    )
    for step in range(6):
        optimizer.zero_grad()
        (-loss_of(up, tokens(step))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(down.parameters(), up.parameters(), strict=True))


@pytest.mark.parametrize("strategy", LEARNING, ids=str)
def test_gradients_clipped_to_a_norm_are_what_is_stepped(strategy: Strategy) -> None:
    model, other = make_model(), make_model()
    clipped, scaled = make_optimizer(model, strategy), make_optimizer(other, strategy)
    for step in range(6):
        for own, optimizer in ((model, clipped), (other, scaled)):
            optimizer.zero_grad()
            loss_of(own, tokens(step)).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
        assert norm > 1e-2
        for param in other.parameters():
            if param.grad is not None:
                param.grad.mul_(1e-2 / (norm + 1e-6))
        clipped.step()
        scaled.step()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_hooks_run_around_every_step_and_may_change_gradients() -> None:
    model = make_model()
    optimizer = make_optimizer(model, ROTATION)
    seen: list[str] = []

    def before(own: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        seen.append("before")
        for param in model.parameters():
            param.grad = None

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    start = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(2))
    assert seen == ["before", "after"] * 2
    assert all(torch.equal(now, start[name]) for name, now in model.state_dict().items())


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_an_optimizer_for_each_parameter_may_step_during_the_backward_pass(strategy: Strategy) -> None:
    """A common way to hold one gradient at a time."""
    model, other = make_model(torch.float64), make_model(torch.float64)
    together = make_optimizer(model, strategy)
    params = [param for param in other.parameters() if param.requires_grad]
    each = {param: WarpAdam([param], **{**together.defaults, "split": None}) for param in params}

    def step_at_once(param: nn.Parameter) -> None:
        each[param].step()
        each[param].zero_grad()

    for param in params:
        param.register_post_accumulate_grad_hook(step_at_once)  # type: ignore[no-untyped-call]
    for step in range(8):
        train(model, together, [step])
        loss_of(other, tokens(step)).backward()  # type: ignore[no-untyped-call]
        assert all(param.grad is None for param in params)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_moving_average_of_the_model_follows_it() -> None:
    model = make_model()
    optimizer = make_optimizer(model, ROTATION)
    averaged = torch.optim.swa_utils.AveragedModel(model, avg_fn=lambda mean, new, _: (mean + new) / 2)
    schedule = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.005, anneal_epochs=3)
    expected = model.conv.weight.detach().clone()
    for step in range(6):
        train(model, optimizer, [step])
        schedule.step()
        averaged.update_parameters(model)
        expected = model.conv.weight.detach().clone() if step == 0 else expected.lerp(model.conv.weight.detach(), 0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    torch.testing.assert_close(averaged.module.get_parameter("conv.weight").detach(), expected)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_resumed_run_of_a_mixed_model_equals_an_uninterrupted_one(strategy: Strategy, dtype: torch.dtype) -> None:
    whole, part = make_model(dtype), make_model(dtype)
    uninterrupted, interrupted = make_optimizer(whole, strategy), make_optimizer(part, strategy)
    train(whole, uninterrupted, range(9))
    train(part, interrupted, range(5))
    file = io.BytesIO()
    torch.save((part.state_dict(), interrupted.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed_model = make_model(dtype)
    resumed_model.load_state_dict(weights)
    resumed = make_optimizer(resumed_model, strategy)
    resumed.load_state_dict(state)
    for own, optimizer in (copy.deepcopy((resumed_model, resumed)), (resumed_model, resumed)):
        train(own, optimizer, range(5, 9))
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), whole.parameters(), strict=True))
        for param, same in zip(own.parameters(), whole.parameters(), strict=True):
            theirs = uninterrupted.state.get(same, {})
            assert set(optimizer.state.get(param, {})) == set(theirs)
            for name, value in theirs.items():
                assert value.dtype == torch.float32
                assert torch.equal(optimizer.state[param][name], value)


@pytest.mark.parametrize("strategy", LEARNING, ids=str)
def test_a_sparse_gradient_is_refused_by_name_and_nothing_moves(strategy: Strategy) -> None:
    model = make_model()
    optimizer = make_optimizer(model, strategy)
    train(model, optimizer, range(3))
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    gradients = torch.autograd.grad(loss_of(model, tokens(3)), list(model.conv.parameters()))
    model.conv.weight.grad, model.conv.bias.grad = gradients  # type: ignore[union-attr]
    table = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 9), (7, 9), check_invariants=True)
    model.table.weight.grad = table
    with pytest.raises(UnsupportedParameterError, match=r"'table\.weight' of shape \(7, 9\) is sparse"):
        optimizer.step()
    assert all(torch.equal(now, before[0][name]) for name, now in model.state_dict().items())
    for key, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, before[1][key][name]) for name, value in state.items())


@pytest.mark.parametrize("strategy", LEARNING, ids=str)
def test_a_gradient_too_large_to_square_does_no_lasting_harm_and_is_counted(strategy: Strategy) -> None:
    matrix, vector = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4))
    optimizer = WarpAdam([matrix, vector], 0.01, **strategy._asdict(), meta_every=1)
    for step in range(12):
        generator = torch.Generator().manual_seed(step)
        for param in (matrix, vector):
            param.grad = torch.randn(param.shape, generator=generator) * (1e20 if step == 5 else 1.0)
        optimizer.step()
    assert optimizer.skipped_updates > 0
    for param in (matrix, vector):
        assert param.isfinite().all()
        assert all(value.isfinite().all() for value in optimizer.get_distortion(param).values())


@pytest.mark.parametrize("lr", ["0.1", float("nan"), -0.1, True])
def test_a_rate_that_is_no_number_is_refused(lr: Any) -> None:
    with pytest.raises(ValueError, match="lr: must be a finite number of at least 0"):
        WarpAdam([nn.Parameter(torch.ones(2))], lr)
