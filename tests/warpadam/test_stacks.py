"""Parameters that are stepped together move as they would alone, and each has its own state."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import STRATEGIES, Strategy, WarpAdam
from warpadam.stacks import _MAX_PADDED, Stack

SHAPES: list[tuple[int, ...]] = [(4, 3), (5,), (4, 3), (2,), (4, 3, 1), (), (3, 4), (4, 3)]
FLOAT64 = torch.float64
ROTATION = next(strategy for strategy in STRATEGIES if strategy.learner == "rotation")
WHITENING = next(strategy for strategy in STRATEGIES if strategy.learner == "whitening")


def _params(dtype: torch.dtype = FLOAT64, shapes: list[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, dtype=FLOAT64, generator=generator).to(dtype)) for s in shapes]


def _gradient(param: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(param.shape, dtype=FLOAT64, generator=generator).to(param.dtype)


def _make(params: list[nn.Parameter], strategy: Strategy = ROTATION, **settings: Any) -> WarpAdam:
    return WarpAdam(params, 0.05, **strategy._asdict(), **{"p_lr": 0.05, "meta_every": 2, "rank": 2, **settings})


def _train(params: list[nn.Parameter], optimizer: WarpAdam, steps: range, pause: bool = False) -> None:
    """Give each parameter its own gradients; with ``pause`` some have none, each at other steps."""
    for step in steps:
        for index, param in enumerate(params):
            waits = pause and (step + index) % 4 == 0
            param.grad = None if waits else _gradient(param, 100 * step + index)
        optimizer.step()


@pytest.mark.parametrize("pause", [False, True], ids=["always", "with_pauses"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_together_they_move_as_they_would_alone(strategy: Strategy, pause: bool) -> None:
    """An optimizer of its own for each parameter is the reference; it has nothing to stack."""
    together, alone = _params(), _params()
    optimizer = _make(together, strategy, weight_decay=0.1)
    _train(together, optimizer, range(12), pause)
    for index, param in enumerate(alone):
        single = _make([param], strategy, weight_decay=0.1)
        for step in range(12):
            param.grad = None if pause and (step + index) % 4 == 0 else _gradient(param, 100 * step + index)
            single.step()
        torch.testing.assert_close(together[index], param, rtol=1e-9, atol=1e-11)
        kept = optimizer.state[together[index]]
        assert set(kept) == set(single.state[param])
        for name, value in single.state[param].items():
            torch.testing.assert_close(kept[name], value, rtol=1e-7, atol=1e-11)


def test_equal_shapes_and_short_vectors_share_storage_and_others_do_not() -> None:
    params = _params(shapes=[(4, 3), (4, 3), (3, 4), (2,), (5,), (_MAX_PADDED + 1,)])
    optimizer = _make(params)
    _train(params, optimizer, range(3))
    storages = [optimizer.state[param]["exp_avg"].untyped_storage().data_ptr() for param in params]
    assert storages[0] == storages[1]
    assert storages[3] == storages[4]
    assert len(set(storages)) == 4


def test_whitened_matrices_of_different_shapes_share_storage_while_little_is_padding() -> None:
    params = _params(shapes=[(48, 2), (48, 48), (48, 48), (1, 48), (200, 2), *[(2, 2), (3, 1)] * 10])
    optimizer = _make(params, WHITENING)
    _train(params, optimizer, range(3))
    storages = [optimizer.state[param]["exp_avg"].untyped_storage().data_ptr() for param in params]
    assert len(set(storages[:4])) == 1
    assert len(set(storages)) < 6
    assert _held(optimizer) <= 3 * _needed(optimizer)
    shapes = {name: tuple(value.shape) for name, value in optimizer.get_distortion(params[0]).items()}
    assert (shapes["row_factor"], shapes["column_factor"]) == ((48, 48), (2, 2))


@pytest.mark.parametrize("name", ["exp_avg", "log_scale"])
def test_a_state_that_is_replaced_from_outside_counts(name: str) -> None:
    params, others = _params(), _params()
    optimizer, other = _make(params), _make(others)
    for own, made in ((params, optimizer), (others, other)):
        _train(own, made, range(3))
    optimizer.state[params[2]][name] = torch.full_like(optimizer.state[params[2]][name], 0.5)
    other.state[others[2]][name].fill_(0.5)
    _train(params, optimizer, range(3, 6))
    _train(others, other, range(3, 6))
    assert all(torch.equal(one, two) for one, two in zip(params, others, strict=True))


def test_a_p_given_to_one_of_them_stays_its_own() -> None:
    params = _params()
    optimizer = _make(params, p_lr=0.0)
    _train(params, optimizer, range(3))
    given = {"log_scale": torch.ones(7, dtype=FLOAT64)}
    optimizer.set_distortion(params[0], given)
    _train(params, optimizer, range(3, 6))
    assert torch.equal(optimizer.get_distortion(params[0])["log_scale"], given["log_scale"])
    assert "log_scale" not in optimizer.get_distortion(params[2])


def test_one_bad_gradient_spoils_no_neighbour() -> None:
    params, clean = _params(), _params()
    optimizer, other = _make(params), _make(clean)
    _train(params, optimizer, range(4))
    _train(clean, other, range(4))
    for index, (param, twin) in enumerate(zip(params, clean, strict=True)):
        param.grad, twin.grad = _gradient(param, index), _gradient(twin, index)
    assert params[2].grad is not None
    params[2].grad[0, 0] = float("nan")
    optimizer.step()
    other.step()
    assert optimizer.skipped_updates == 1
    assert not params[2].isfinite().all()
    for index, (param, twin) in enumerate(zip(params, clean, strict=True)):
        if index != 2:  # the others differ by rounding only, as their number is computed apart
            torch.testing.assert_close(param, twin, rtol=1e-13, atol=0)


def test_stacked_groups_keep_their_own_numbers_and_a_late_group_joins() -> None:
    params = _params(shapes=[(4, 3)] * 6)
    optimizer = WarpAdam([{"params": params[:2], "lr": 0.1}, {"params": params[2:4], "lr": 0.0}], lr=0.2)
    before = [param.detach().clone() for param in params]
    _train(params[:4], optimizer, range(3))
    optimizer.add_param_group({"params": params[4:]})
    _train(params, optimizer, range(3, 5))
    moved = [not torch.equal(param, start) for param, start in zip(params, before, strict=True)]
    assert moved == [True, True, False, False, True, True]
    assert [int(optimizer.state[param]["step"]) for param in params] == [5, 5, 5, 5, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_stacked_run_resumes_bit_for_bit(strategy: Strategy, dtype: torch.dtype) -> None:
    whole, first = _params(dtype), _params(dtype)
    uninterrupted, interrupted = _make(whole, strategy), _make(first, strategy)
    _train(whole, uninterrupted, range(9), pause=True)
    _train(first, interrupted, range(5), pause=True)
    second = [nn.Parameter(param.detach().clone()) for param in first]
    resumed = _make(second, strategy)
    resumed.load_state_dict(copy.deepcopy(interrupted.state_dict()))
    _train(second, resumed, range(5, 9), pause=True)
    assert all(torch.equal(one, two) for one, two in zip(second, whole, strict=True))


def _memory(optimizer: WarpAdam) -> tuple[int, int, int]:
    """Bytes that the state's storages hold, the number of its entries, and of all tensors that are alive.

    Those that were there at the start of the test are not looked at: after thousands of tests there are many.
    """
    values = [value for state in optimizer.state.values() for value in state.values()]
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in values}
    gc.collect()
    return sum(storages.values()), len(values), sum(type(thing) is Tensor for thing in gc.get_objects())


@pytest.fixture
def _only_new_objects() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_only_new_objects")
@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s.placement == "sandwich" or s == WHITENING], ids=str)
def test_nothing_grows_in_200_steps_and_the_plan_is_made_once(strategy: Strategy) -> None:
    params = _params()
    optimizer = _make(params, strategy)
    _train(params, optimizer, range(20))
    before, plan = _memory(optimizer), optimizer._plan
    for _ in range(10):
        _train(params, optimizer, range(20))
        assert _memory(optimizer) == before
    assert optimizer._plan is plan


@pytest.mark.parametrize("field", ["max_dim", "block_size"])
def test_a_number_that_decides_the_structure_is_not_missed_when_it_changes(field: str) -> None:
    """What such a change means for a state that exists is the user's affair; that it is seen is ours."""
    params = _params(shapes=[(4, 3)])
    optimizer = _make(params)
    _train(params, optimizer, range(2))
    plan = optimizer._plan
    optimizer.param_groups[0][field] += 1
    _train(params, optimizer, range(2))
    assert optimizer._plan is not plan


def _held(optimizer: WarpAdam) -> int:
    """Bytes that the storages of the state hold."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in values}
    return sum(storages.values())


def _needed(optimizer: WarpAdam) -> int:
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values())


def _saved_bytes(optimizer: WarpAdam) -> int:
    file = io.BytesIO()
    torch.save(optimizer.state_dict()["state"], file)
    return file.tell()


@pytest.mark.parametrize("way", ["frozen", "deleted"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_parameters_that_leave_a_stack_do_not_keep_its_memory(strategy: Strategy, way: str) -> None:
    params = _params(shapes=[(40, 30)] * 8, dtype=torch.float32)
    optimizer, alone = _make(params, strategy), _make(params[:1], strategy)
    _train(params, optimizer, range(3))
    if way == "deleted":
        for param in params[1:]:
            del optimizer.state[param]
        optimizer.param_groups[0]["params"] = params[:1]
    for param in params[1:]:
        param.grad = None
    params[0].grad = _gradient(params[0], 1)
    optimizer.step()
    alone.step()
    assert _held(optimizer) <= 1.05 * _needed(optimizer)
    if way == "deleted":
        assert _saved_bytes(optimizer) <= 1.2 * _saved_bytes(alone)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_scalars_beside_a_long_vector_are_not_padded_to_its_length(strategy: Strategy) -> None:
    shapes: list[tuple[int, ...]] = [*[()] * 200, (_MAX_PADDED,), *[(7,), (9,)] * 5]
    params = _params(shapes=shapes, dtype=torch.float32)
    optimizer = _make(params, strategy)
    _train(params, optimizer, range(2))
    assert _held(optimizer) <= 2 * _needed(optimizer)


def _count_stacks(monkeypatch: pytest.MonkeyPatch) -> list[Stack]:
    """Return a list to which every stack that is stepped is added."""
    stepped: list[Stack] = []
    step = Stack.step

    def counted(stack: Stack, numbers: Any) -> None:
        stepped.append(stack)
        step(stack, numbers)

    monkeypatch.setattr(Stack, "step", counted)
    return stepped


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_groups_that_differ_in_lr_and_decay_are_stepped_together_as_they_would_be_alone(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = [(4, 3)] * 6
    together, apart = _params(shapes=shapes), _params(shapes=shapes)
    numbers: list[dict[str, Any]] = [
        {"lr": 0.01 * (index + 1), "weight_decay": 0.1 * (index % 2)} for index in range(6)
    ]
    groups = [{"params": [param], **own} for param, own in zip(together, numbers, strict=True)]
    settings: dict[str, Any] = {"p_lr": 0.05, "meta_every": 2, "rank": 2, **strategy._asdict()}
    optimizer = WarpAdam(groups, **settings)
    singles = [WarpAdam([param], **own, **settings) for param, own in zip(apart, numbers, strict=True)]
    stepped = _count_stacks(monkeypatch)
    _train(together, optimizer, range(8))
    assert len(stepped) == 8
    assert len(set(stepped)) == 1
    for index, (single, twin) in enumerate(zip(singles, apart, strict=True)):
        for step in range(8):
            twin.grad = _gradient(twin, 100 * step + index)
            single.step()
    for one, two in zip(together, apart, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s.learner in ("whitening", "frozen")], ids=str)
def test_parameters_with_different_numbers_of_steps_are_stepped_by_one_call(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = _params(shapes=[(4, 3)] * 8)
    optimizer = _make(params, strategy)
    _train(params, optimizer, range(6), pause=True)
    stepped = _count_stacks(monkeypatch)
    _train(params, optimizer, range(6, 7), pause=True)
    assert len({int(optimizer.state[param]["step"]) for param in params}) > 1
    assert len(stepped) == 1


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_stacks_whose_parameters_all_have_a_gradient_are_kept_when_others_change(strategy: Strategy) -> None:
    params = _params(shapes=[(4, 3), (4, 3), (200, 5), (200, 5)])
    optimizer = _make(params, strategy)
    _train(params, optimizer, range(3))
    kept = optimizer.state[params[0]]["exp_avg"]
    for index, param in enumerate(params[:3]):
        param.grad = _gradient(param, index)
    params[3].grad = None
    optimizer.step()
    assert optimizer.state[params[0]]["exp_avg"] is kept


@pytest.mark.parametrize("shapes", [[(4, 3), (5, 5)], [(4, 3), (4, 3)], [(4,), (3,)]], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_parameter_that_moves_to_another_group_takes_its_lr(
    strategy: Strategy, shapes: list[tuple[int, ...]]
) -> None:
    one, two = params = _params(shapes=shapes)
    optimizer = WarpAdam([{"params": [one], "lr": 0.0}, {"params": [two], "lr": 0.1}], **strategy._asdict())

    def moved() -> list[bool]:
        before = [param.detach().clone() for param in params]
        _train(params, optimizer, range(1))
        return [not torch.equal(now, then) for now, then in zip(params, before, strict=True)]

    groups = optimizer.param_groups
    assert moved() == [False, True]
    groups[0]["params"], groups[1]["params"] = [two], [one]
    assert moved() == [True, False]
    groups[0]["params"], groups[1]["params"] = [], [one, two]
    assert moved() == [True, True]
