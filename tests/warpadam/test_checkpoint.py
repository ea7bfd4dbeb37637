"""A saved and restored optimizer continues to the last bit as if it had not stopped, with every strategy."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import STRATEGIES, InvalidConfigError, Strategy, WarpAdam


def _model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 2)).to(dtype)


def _optimizer(model: nn.Module, strategy: Strategy, **settings: Any) -> WarpAdam:
    return WarpAdam(model.named_parameters(), 0.01, **strategy._asdict(), meta_every=3, p_lr=0.02, **settings)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(4, 1, 3, 3, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def _through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def _tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state_dict()["state"].values() for _, value in sorted(state.items())]


ROTATION = next(strategy for strategy in STRATEGIES if strategy.learner == "rotation")
SANDWICH = STRATEGIES[8]


@pytest.mark.parametrize("stop", [3, 5, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one(strategy: Strategy, dtype: torch.dtype, stop: int) -> None:
    whole = _model(dtype)
    uninterrupted = _optimizer(whole, strategy)
    _train(whole, uninterrupted, range(12))

    first = _model(dtype)
    interrupted = _optimizer(first, strategy)
    _train(first, interrupted, range(stop))
    saved = _through_a_file({"model": first.state_dict(), "optimizer": interrupted.state_dict()})

    second = _model(dtype)
    resumed = _optimizer(second, strategy)
    second.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    _train(second, resumed, range(stop, 12))

    for ours, theirs in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for our, their in zip(_tensors(resumed), _tensors(uninterrupted), strict=True):
        assert torch.equal(our, their)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "limits"), [((1, 9), {"block_size": 6}), ((11, 13), {}), ((9, 7), {"max_dim": 4})])
@pytest.mark.parametrize("structure", ["full", "kronecker"])
def test_blocks_with_padding_are_saved_whole_after_every_step(
    structure: str, shape: tuple[int, ...], limits: dict[str, int], dtype: torch.dtype, rank: int
) -> None:
    """Neither a moment nor a direction of the basis may be in the padding, which is not saved."""
    settings: dict[str, Any] = {
        "structure": structure,
        "learner": "rotation",
        "block_size": 50,
        "meta_every": 3,
        **limits,
    }

    def step(optimizer: WarpAdam, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        (param,) = optimizer.param_groups[0]["params"]
        left, right = (torch.randn(length, rank, dtype=dtype, generator=generator) for length in shape)
        param.grad = left @ right.mT
        optimizer.step()
        value: Tensor = param.detach().clone()
        return value

    for stop in range(1, 6):
        whole = WarpAdam([nn.Parameter(torch.zeros(shape, dtype=dtype))], **settings)
        for number in range(stop):
            value = step(whole, number)
        resumed = WarpAdam([nn.Parameter(value)], **settings)
        resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        for number in range(stop, stop + 3):
            assert torch.equal(step(resumed, number), step(whole, number))


@pytest.mark.parametrize("strategy", [SANDWICH, ROTATION], ids=str)
def test_p_of_a_bf16_parameter_comes_back_in_fp32(strategy: Strategy) -> None:
    model = _model(torch.bfloat16)
    optimizer = _optimizer(model, strategy)
    _train(model, optimizer, range(5))
    other = _model(torch.bfloat16)
    loaded = _optimizer(other, strategy)
    loaded.load_state_dict(optimizer.state_dict())
    for param, same in zip(model.parameters(), other.parameters(), strict=True):
        distortion = optimizer.get_distortion(param)
        for name, value in loaded.get_distortion(same).items():
            assert value.dtype == torch.float32
            assert torch.equal(value, distortion[name])


def test_loading_shares_no_tensor_with_what_was_loaded() -> None:
    model, other = _model(), _model()
    optimizer, loaded = _optimizer(model, ROTATION), _optimizer(other, ROTATION)
    _train(model, optimizer, range(5))
    before = [value.clone() for value in _tensors(optimizer)]
    loaded.load_state_dict(optimizer.state_dict())
    _train(other, loaded, range(5, 8))
    assert all(torch.equal(now, then) for now, then in zip(_tensors(optimizer), before, strict=True))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_and_pickles_go_on_alike(clone: Any) -> None:
    model = _model()
    optimizer = _optimizer(model, ROTATION)
    _train(model, optimizer, range(5))
    other, twin = clone((model, optimizer))
    _train(model, optimizer, range(5, 9))
    _train(other, twin, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_saved_strategy_wins() -> None:
    model = _model()
    optimizer = _optimizer(model, SANDWICH)
    _train(model, optimizer, range(2))
    loaded = _optimizer(_model(), ROTATION)
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.param_groups[0]["learner"] == "hypergradient"


def test_illegal_saved_settings_are_refused_before_anything_is_loaded() -> None:
    model = _model()
    optimizer = _optimizer(model, ROTATION)
    _train(model, optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["betas"] = (2.0, 0.9)
    other = _optimizer(_model(), ROTATION)
    with pytest.raises(InvalidConfigError, match="beta1"):
        other.load_state_dict(saved)
    assert not other.state
    other.load_state_dict(optimizer.state_dict())
    assert len(other.state) == 4


def test_a_load_hook_may_replace_the_state() -> None:
    model = _model()
    optimizer = _optimizer(model, ROTATION)
    _train(model, optimizer, range(3))
    renamed = optimizer.state_dict()
    renamed["param_groups"] = [
        {**group, "params": [p + 10 for p in group["params"]]} for group in renamed["param_groups"]
    ]
    renamed["state"] = {key + 10: value for key, value in renamed["state"].items()}
    other = _optimizer(_model(), ROTATION)
    other.register_load_state_dict_pre_hook(lambda _, __: renamed)
    other.load_state_dict({"state": {}, "param_groups": []})
    assert all(torch.equal(a, b) for a, b in zip(_tensors(other), _tensors(optimizer), strict=True))


def test_another_number_of_parameters_is_refused() -> None:
    optimizer = WarpAdam([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict(_optimizer(_model(), ROTATION).state_dict())
