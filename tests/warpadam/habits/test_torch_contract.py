"""What PyTorch's own tests ask of every optimizer, for every strategy, over torch's own list of inputs.

The promises are those of ``TestOptimRenewed`` in PyTorch's ``test/test_optim.py``. Left out are those that need an
argument that WarpAdam does not have (``foreach``, ``fused``, ``capturable``, ``differentiable``), CUDA, complex
parameters or sparse gradients.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.testing._internal.common_optimizers import (
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
)

from warpadam import Learner, Placement, Strategy, Structure, WarpAdam

Promise = Callable[[Strategy, dict[str, Any]], None]


def _inputs(_device: str, _dtype: torch.dtype | None = None) -> list[OptimizerInput]:
    kwargs: list[dict[str, Any]] = [
        {},
        {"lr": 0.02},
        {"lr": torch.tensor(0.01)},
        {"weight_decay": 0.1},
        {"maximize": True},
        {"maximize": True, "weight_decay": 0.1},
        {"p_lr": 0.0, "meta_every": 1},
    ]
    return [OptimizerInput(params=NO_PARAMS, kwargs=own, desc=str(own)) for own in kwargs]


OPTIMIZER: Any = WarpAdam  # torch declares an instance where it wants a class
NO_PARAMS: Any = None
INFO = OptimizerInfo(
    OPTIMIZER,
    optim_inputs_func=_inputs,
    optim_error_inputs_func=get_error_inputs_for_all_optims,
    scheduler_inputs=(
        [lambda opt: lr_scheduler.StepLR(opt, gamma=0.9, step_size=10)],
        [lambda opt: lr_scheduler.LinearLR(opt, start_factor=0.4, total_iters=4)],
        [
            lambda opt: lr_scheduler.StepLR(opt, gamma=0.9, step_size=10),
            lr_scheduler.ReduceLROnPlateau,
        ],
        [lambda opt: lr_scheduler.ExponentialLR(opt, gamma=0.99)],
    ),
    supported_impls=(),
    supports_sparse=False,
    supports_complex=False,
)
KWARGS = [own.kwargs for own in INFO.optim_inputs_func("cpu")]
NINE = [
    Strategy(Structure.KRONECKER, Placement.PRE, Learner.WHITENING),
    Strategy(Structure.KRONECKER, Placement.SANDWICH, Learner.ROTATION),
    *(Strategy(structure, Placement.PRE, Learner.HYPERGRADIENT) for structure in Structure),
    *(
        Strategy(structure, Placement.SANDWICH, Learner.HYPERGRADIENT)
        for structure in (Structure.DIAGONAL, Structure.LOW_RANK, Structure.KRONECKER)
    ),
]
"""The strategies that a search tries."""

each_strategy = pytest.mark.parametrize("strategy", NINE, ids=str)
each_input = pytest.mark.parametrize("kwargs", KWARGS, ids=str)


def _make(params: Any, strategy: Strategy, kwargs: dict[str, Any]) -> WarpAdam:
    own: dict[str, Any] = {
        name: value.clone() if isinstance(value, Tensor) else value for name, value in kwargs.items()
    }
    settings: dict[str, Any] = {"lr": 0.01, **own, **strategy._asdict()}
    return WarpAdam(params, **settings)


def _problem(contiguous: bool = True, seed: int = 0) -> tuple[nn.Parameter, nn.Parameter, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if contiguous:
        weight, bias = torch.randn(10, 5, generator=generator), torch.randn(10, generator=generator)
    else:
        weight, bias = (
            torch.randn(10, 5, 2, generator=generator)[..., 0],
            torch.randn(10, 2, generator=generator)[..., 0],
        )
    return nn.Parameter(weight), nn.Parameter(bias), torch.randn(5, generator=generator)


def _closure(optimizer: torch.optim.Optimizer, weight: Tensor, bias: Tensor, inputs: Tensor) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight.mv(inputs) + bias).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return closure


def _run(optimizer: WarpAdam, closure: Any, schedulers: list[Any], steps: int) -> None:
    for _ in range(steps):
        loss = optimizer.step(closure)
        for scheduler in schedulers:
            scheduler.step(*([float(loss.detach())] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("with_schedule", [False, True])
@each_input
@each_strategy
def test_a_loop_goes_in_the_right_direction(
    strategy: Strategy, kwargs: dict[str, Any], with_schedule: bool, contiguous: bool
) -> None:
    for makers in INFO.scheduler_inputs if with_schedule else [[]]:
        weight, bias, inputs = _problem(contiguous)
        optimizer = _make([weight, bias], strategy, kwargs)
        schedulers = [make(optimizer) for make in makers]
        closure = _closure(optimizer, weight, bias, inputs)
        first = closure().item()
        _run(optimizer, closure, schedulers, 20)
        assert closure().item() > first if kwargs.get("maximize") else closure().item() < first


@each_input
@each_strategy
def test_groups_with_their_own_lr_and_a_schedule_go_in_the_right_direction(
    strategy: Strategy, kwargs: dict[str, Any]
) -> None:
    for makers in INFO.scheduler_inputs:
        weight, bias, inputs = _problem()
        optimizer = _make([{"params": [weight]}, {"params": [bias], "lr": 0.01}], strategy, kwargs)
        schedulers = [make(optimizer) for make in makers]
        closure = _closure(optimizer, weight, bias, inputs)
        first = closure().item()
        _run(optimizer, closure, schedulers, 20)
        assert closure().item() > first if kwargs.get("maximize") else closure().item() < first


@pytest.mark.parametrize("axes", [0, 1])
@pytest.mark.parametrize("with_schedule", [False, True])
@each_strategy
def test_a_tensor_as_lr_is_the_number_in_it(strategy: Strategy, axes: int, with_schedule: bool) -> None:
    found = []
    for lr in (0.02, torch.full([1] * axes, 0.02, dtype=torch.float64)):
        weight, bias, inputs = (nn.Parameter(tensor.double()) for tensor in _problem())
        optimizer = _make([weight, bias], strategy, {"lr": lr, "weight_decay": 0.1})
        schedulers = [lr_scheduler.StepLR(optimizer, gamma=0.9, step_size=3)] if with_schedule else []
        _run(optimizer, _closure(optimizer, weight, bias, inputs), schedulers, 8)
        assert isinstance(optimizer.param_groups[0]["lr"], type(lr))
        found.append((weight.detach(), bias.detach()))
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-7)


@each_strategy
def test_weight_decay_of_a_group_moves_only_that_group(strategy: Strategy) -> None:
    weight, bias, _ = _problem()
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    start, other = weight.detach().clone(), bias.detach().clone()
    _make([{"params": [weight], "weight_decay": 0.5}, {"params": [bias]}], strategy, {"lr": 0.1}).step()
    torch.testing.assert_close(weight.detach(), start * 0.95)
    assert torch.equal(bias, other)


@each_strategy
def test_lr_of_a_group_moves_only_that_group(strategy: Strategy) -> None:
    weight, bias, inputs = _problem()
    before = weight.detach().clone()
    optimizer = _make([{"params": [weight], "lr": 0.0}, {"params": [bias]}], strategy, {})
    first = _closure(optimizer, weight, bias, inputs)().item()
    _run(optimizer, _closure(optimizer, weight, bias, inputs), [], 5)
    assert torch.equal(weight, before)
    assert _closure(optimizer, weight, bias, inputs)().item() < first


@each_input
@each_strategy
def test_a_step_without_gradients_changes_nothing(strategy: Strategy, kwargs: dict[str, Any]) -> None:
    weight, bias, _ = _problem()
    optimizer = _make([weight, bias], strategy, kwargs)
    before = copy.deepcopy((weight, bias))
    optimizer.step()
    assert all(torch.equal(now, then) for now, then in zip((weight, bias), before, strict=True))
    assert not optimizer.state


@each_input
@each_strategy
def test_a_step_with_zero_gradients_changes_nothing_but_by_decay(strategy: Strategy, kwargs: dict[str, Any]) -> None:
    for contiguous in (True, False):
        weight, bias, _ = _problem(contiguous)
        optimizer = _make([weight, bias], strategy, kwargs)
        before = [param.detach().clone() for param in (weight, bias)]
        for param in (weight, bias):
            param.grad = torch.zeros_like(param)
        optimizer.step()
        left = 1 - 0.01 * kwargs.get("weight_decay", 0.0)
        for now, then in zip((weight, bias), before, strict=True):
            torch.testing.assert_close(now.detach(), then * left)


@each_input
@each_strategy
def test_it_can_be_printed(strategy: Strategy, kwargs: dict[str, Any]) -> None:
    assert "learner" in repr(_make(list(_problem()[:2]), strategy, kwargs))


@each_strategy
def test_empty_gradients_are_no_trouble(strategy: Strategy) -> None:
    layer = nn.Embedding(1, 1, padding_idx=0)
    empty = nn.Parameter(torch.zeros(0, 3))
    optimizer = _make([*layer.parameters(), empty], strategy, {})
    for _ in range(2):
        optimizer.zero_grad()
        (layer(torch.tensor([[0]])).sum() + empty.sum()).backward()
        optimizer.step()


@each_strategy
def test_the_state_is_not_empty_after_a_step(strategy: Strategy) -> None:
    weight, bias, inputs = _problem()
    optimizer = _make([weight, bias], strategy, {})
    _run(optimizer, _closure(optimizer, weight, bias, inputs), [], 1)
    assert all(optimizer.state[param] for param in (weight, bias))


def _trained(strategy: Strategy, kwargs: dict[str, Any], steps: int = 6) -> tuple[WarpAdam, Any, list[nn.Parameter]]:
    weight, bias, inputs = _problem()
    optimizer = _make([weight, bias], strategy, kwargs)
    closure = _closure(optimizer, weight, bias, inputs)
    _run(optimizer, closure, [], steps)
    return optimizer, closure, [weight, bias]


@each_input
@each_strategy
def test_the_state_dict_is_deterministic_and_loading_it_leaves_it_alone(
    strategy: Strategy, kwargs: dict[str, Any]
) -> None:
    optimizer, closure, params = _trained(strategy, kwargs)
    others = [nn.Parameter(param.detach().clone()) for param in params]
    other = _make(others, strategy, kwargs)
    saved = copy.deepcopy(optimizer.state_dict())
    given = copy.deepcopy(saved)
    other.load_state_dict(given)
    other_closure: Any = _closure(other, others[0], others[1], _problem()[2])
    for _ in range(6):
        optimizer.step(closure)
        other.step(other_closure)
        assert all(torch.equal(one, two) for one, two in zip(params, others, strict=True))
    _assert_equal(given, saved)
    _assert_equal(optimizer.state_dict(), other.state_dict())
    other.param_groups.extend(other.param_groups)
    _assert_equal(optimizer.state_dict()["param_groups"][-1], other.state_dict()["param_groups"][-1])


@each_strategy
def test_a_saved_state_without_a_setting_is_loaded_and_stepped(strategy: Strategy) -> None:
    for name in [name for name in WarpAdam([nn.Parameter(torch.ones(1))]).defaults if name not in Strategy._fields]:
        optimizer, closure, _ = _trained(strategy, {}, 2)
        saved = copy.deepcopy(optimizer.state_dict())
        del saved["param_groups"][0][name]
        optimizer.load_state_dict(saved)
        optimizer.step(closure)
        assert optimizer.param_groups[0][name] == optimizer.defaults[name]


@each_strategy
def test_a_step_counter_that_is_a_number_is_loaded(strategy: Strategy) -> None:
    optimizer, closure, _ = _trained(strategy, {})
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = state["step"].item()
    optimizer.load_state_dict(saved)
    optimizer.step(closure)
    assert {int(state["step"]) for state in optimizer.state.values()} == {7}


@each_input
@each_strategy
def test_saved_and_loaded_with_weights_only_it_is_equal(strategy: Strategy, kwargs: dict[str, Any]) -> None:
    optimizer, _, params = _trained(strategy, kwargs)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    _assert_equal(loaded, optimizer.state_dict())
    _make([nn.Parameter(param.detach().clone()) for param in params], strategy, kwargs).load_state_dict(loaded)


@pytest.mark.parametrize("named", [(True, True), (True, False), (False, True)], ids=str)
@each_strategy
def test_states_travel_between_optimizers_with_and_without_names(strategy: Strategy, named: tuple[bool, bool]) -> None:
    both = []
    for has_names in named:
        weight, bias, inputs = _problem()
        params = [("weight", weight), ("bias", bias)] if has_names else [weight, bias]
        optimizer = _make(params, strategy, {})
        _run(optimizer, _closure(optimizer, weight, bias, inputs), [], 3)
        both.append(optimizer)
    both[1].load_state_dict(both[0].state_dict())
    _assert_equal(both[1].state_dict()["state"], both[0].state_dict()["state"])


@each_strategy
def test_a_deep_copy_has_all_public_attributes(strategy: Strategy) -> None:
    optimizer, _, _ = _trained(strategy, {})
    copied = copy.deepcopy(optimizer)
    public = [{name for name in vars(own) if not name.startswith("_")} for own in (optimizer, copied)]
    assert public[0] == public[1]


@each_strategy
def test_hooks_run_around_a_step_in_order(strategy: Strategy) -> None:
    optimizer, closure, _ = _trained(strategy, {})
    seen: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
    ]

    def counted() -> Any:
        seen.append("closure")
        return closure()

    optimizer.step(counted)
    for handle in handles:
        handle.remove()
    optimizer.step(closure)
    assert seen == ["before", "closure", "after"]


@each_strategy
def test_hooks_run_around_state_dict_and_loading(strategy: Strategy) -> None:
    optimizer, _, _ = _trained(strategy, {})
    seen: list[str] = []

    def post(_: Any, saved: dict[str, Any]) -> None:
        seen.append("saved")
        saved["extra"] = 1

    optimizer.register_state_dict_pre_hook(lambda _: seen.append("saving"))
    optimizer.register_state_dict_post_hook(post)
    optimizer.register_load_state_dict_pre_hook(lambda _, __: seen.append("loading"))
    optimizer.register_load_state_dict_pre_hook(lambda _, __: seen.append("first"), prepend=True)
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    saved = optimizer.state_dict()
    assert saved["extra"] == 1
    optimizer.load_state_dict(saved)
    assert seen == ["saving", "saved", "first", "loading", "loaded"]


@pytest.mark.parametrize("index", range(len(INFO.optim_error_inputs_func("cpu", torch.float32))))
@each_strategy
def test_what_every_optimizer_refuses_is_refused(strategy: Strategy, index: int) -> None:
    wrong = INFO.optim_error_inputs_func("cpu", torch.float32)[index]
    assert wrong.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
    given = wrong.optimizer_error_input
    params = [nn.Parameter(torch.randn(1, 1))] if given.params is None else given.params
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(wrong.error_type, match=wrong.error_regex):
            WarpAdam(params, **given.kwargs, **strategy._asdict())


def _assert_equal(one: Any, other: Any) -> None:
    """Compare nested dicts and lists of tensors and numbers, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            _assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            _assert_equal(*pair)
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other
