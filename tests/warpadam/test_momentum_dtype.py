"""With ``momentum_dtype`` the momentum takes half the memory, and training hardly changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.warpadam.habits.mixed import loss_of, make_model, make_optimizer, tokens
from warpadam import STRATEGIES, Strategy, WarpAdam, WarpAdamConfig, estimate_memory
from warpadam.errors import InvalidConfigError

BF16 = torch.bfloat16
MOMENTUM = {"exp_avg", "prev_grad", "prev_update"}

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=str)


def _train(model: nn.Module, optimizer: WarpAdam, steps: range) -> float:
    loss = torch.tensor(torch.nan)
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(model, tokens(step, 64))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return loss.item()


def _dtypes(optimizer: WarpAdam) -> dict[str, set[torch.dtype]]:
    found: dict[str, set[torch.dtype]] = {}
    for state in optimizer.state.values():
        for name, value in state.items():
            found.setdefault(name, set()).add(value.dtype)
    return found


def _trained(strategy: Strategy, dtype: torch.dtype | None, steps: int, **settings: Any) -> tuple[nn.Module, WarpAdam]:
    model = make_model()
    optimizer = make_optimizer(model, strategy, momentum_dtype=dtype, **settings)
    _train(model, optimizer, range(steps))
    return model, optimizer


@each_strategy
def test_only_the_momentum_is_in_bf16(strategy: Strategy) -> None:
    _, optimizer = _trained(strategy, BF16, 3)
    dtypes = _dtypes(optimizer)
    assert dtypes["exp_avg"] == {BF16}
    for name, found in dtypes.items():
        assert found == ({BF16} if name in MOMENTUM else {torch.float32})


@each_strategy
def test_a_model_trains_as_well(strategy: Strategy) -> None:
    losses = []
    for dtype in (None, BF16):
        model = make_model()
        optimizer = make_optimizer(model, strategy, momentum_dtype=dtype, lr=0.003)
        before = _train(model, optimizer, range(1))
        _train(model, optimizer, range(1, 60))
        losses.append(loss_of(model, tokens(1_000, 256)).item() / before)
    exact, stored = losses
    assert exact < 0.9
    assert stored == pytest.approx(exact, rel=0.05)


@each_strategy
def test_a_resumed_run_is_the_same_bit_for_bit(strategy: Strategy) -> None:
    model, optimizer = _trained(strategy, BF16, 5)
    resumed = make_model()
    resumed.load_state_dict(model.state_dict())
    other = make_optimizer(resumed, strategy, momentum_dtype=BF16)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, own in ((model, optimizer), (resumed, other)):
        _train(net, own, range(5, 12))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(("saved", "own"), [(None, BF16), (BF16, None)], ids=["to bf16", "from bf16"])
@each_strategy
def test_a_loaded_momentum_has_the_dtype_of_the_optimizer(
    strategy: Strategy, saved: torch.dtype | None, own: torch.dtype | None
) -> None:
    model, optimizer = _trained(strategy, saved, 4)
    other = make_optimizer(model, strategy, momentum_dtype=own)
    other.load_state_dict(optimizer.state_dict())
    assert _dtypes(other)["exp_avg"] == {own or torch.float32}
    for param, state in optimizer.state.items():
        assert torch.equal(other.state[param]["exp_avg"].to(BF16), state["exp_avg"].to(BF16))
    _train(model, other, range(4, 8))
    assert _dtypes(other)["exp_avg"] == {own or torch.float32}


@pytest.mark.parametrize("saved", [BF16, "bfloat16", None], ids=str)
@pytest.mark.parametrize("own", [BF16, None], ids=str)
def test_the_dtype_is_saved_by_name_and_each_form_is_loaded(saved: Any, own: torch.dtype | None) -> None:
    """Older versions saved the dtype itself."""
    model, optimizer = _trained(STRATEGIES[0], BF16, 3)
    state = copy.deepcopy(optimizer.state_dict())
    assert {group["momentum_dtype"] for group in state["param_groups"]} == {"bfloat16"}
    for group in state["param_groups"]:
        group["momentum_dtype"] = saved
    other = make_optimizer(model, STRATEGIES[0], momentum_dtype=own)
    other.load_state_dict(state)
    assert other.param_groups[0]["momentum_dtype"] == own
    _train(model, other, range(3, 6))
    assert _dtypes(other)["exp_avg"] == {own or torch.float32}


def test_a_copy_of_the_optimizer_goes_on_the_same() -> None:
    model, optimizer = _trained(STRATEGIES[0], BF16, 4)
    model, optimizer = copy.deepcopy((model, optimizer))
    _train(model, optimizer, range(4, 6))
    assert _dtypes(optimizer)["exp_avg"] == {BF16}


@each_strategy
def test_a_tensor_that_is_stepped_alone_moves_as_in_a_stack(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved() -> list[nn.Parameter]:
        params = [nn.Parameter(torch.ones(shape)) for shape in [(6, 4), (6, 4), (4, 6), (5,), (4,), (3, 2, 2)]]
        optimizer = WarpAdam(params, 0.01, **strategy._asdict(), meta_every=2, rank=2, momentum_dtype=BF16)
        for step in range(6):
            for index, param in enumerate(params):
                param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(10 * step + index))
            optimizer.step()
        return params

    together = moved()
    monkeypatch.setattr("warpadam.stacks._MAX_ELEMENTS", 0)
    for a, b in zip(together, moved(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_an_fp64_parameter_is_stepped_in_fp64() -> None:
    param = nn.Parameter(torch.ones(4, 3, dtype=torch.float64))
    optimizer = WarpAdam([param], 0.01, momentum_dtype=BF16)
    param.grad = torch.randn(4, 3, dtype=torch.float64)
    optimizer.step()
    state = optimizer.state[param]
    assert state["exp_avg"].dtype == BF16
    assert state["exp_avg_sq"].dtype == torch.float64


def test_a_group_may_have_its_own() -> None:
    first, second = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    groups: list[dict[str, Any]] = [{"params": [first], "momentum_dtype": BF16}, {"params": [second]}]
    optimizer = WarpAdam(groups)
    for param in (first, second):
        param.grad = torch.eye(4)
    optimizer.step()
    assert optimizer.state[first]["exp_avg"].dtype == BF16
    assert optimizer.state[second]["exp_avg"].dtype == torch.float32
    torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, "bfloat16", torch.int8])
def test_another_dtype_is_refused(dtype: Any) -> None:
    param = nn.Parameter(torch.ones(3))
    with pytest.raises(InvalidConfigError, match=r"momentum_dtype: must be None or torch\.bfloat16"):
        WarpAdam([param], momentum_dtype=dtype)
    optimizer = WarpAdam([param])
    with pytest.raises(InvalidConfigError, match="momentum_dtype"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "momentum_dtype": dtype})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("strategy", [STRATEGIES[0], STRATEGIES[-1]], ids=str)
def test_the_estimate_is_what_is_there(strategy: Strategy) -> None:
    config = WarpAdamConfig(**strategy._asdict(), p_lr=0.01, meta_every=1)
    shapes = {"a": (32, 16), "b": (7,)}
    named = {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    optimizer = WarpAdam.from_config(named.items(), config, momentum_dtype=BF16)
    for param in named.values():
        param.grad = torch.ones_like(param)
    optimizer.step()
    used = sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    assert estimate_memory(shapes, config, momentum_dtype=BF16).total_bytes == used
    assert used < estimate_memory(shapes, config).total_bytes
