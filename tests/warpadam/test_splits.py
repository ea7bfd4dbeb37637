"""A split parameter trains as its parts would as parameters of their own."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from warpadam import (
    STRATEGIES,
    InvalidConfigError,
    Strategy,
    WarpAdam,
    WarpMismatchError,
    diagnose,
    estimate_memory,
    param_groups,
)

SETTINGS: dict[str, Any] = {"meta_every": 2, "p_lr": 0.02, "rank": 2, "max_dim": 12, "block_size": 16}
STEPS = 8

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=str)

KINDS: dict[str, tuple[tuple[int, ...], Any, list[Any]]] = {
    "three equal parts": ((18, 5), 3, [slice(0, 6), slice(6, 12), slice(12, 18)]),
    "grouped queries": ((14, 5), [8, 3, 3], [slice(0, 8), slice(8, 11), slice(11, 14)]),
    "columns": (
        (5, 18),
        {"parts": 3, "dim": 1},
        [(slice(None), slice(start, start + 6)) for start in (0, 6, 12)],
    ),
    "experts": ((3, 6, 5), "each", [0, 1, 2]),
    "bias": ((9,), 3, [slice(0, 3), slice(3, 6), slice(6, 9)]),
}

each_kind = pytest.mark.parametrize("kind", KINDS)


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _optimizer(params: list[tuple[str, nn.Parameter]], strategy: Strategy, **settings: Any) -> WarpAdam:
    return WarpAdam(params, 0.01, weight_decay=0.1, **strategy._asdict(), **SETTINGS, **settings)


def _split_and_separate(kind: str, strategy: Strategy) -> tuple[WarpAdam, WarpAdam]:
    """A split parameter beside another one, and the same numbers as separate parameters."""
    shape, split, indices = KINDS[kind]
    value = _random(shape, 0)
    own = [("h.0.qkv_proj.weight", nn.Parameter(value.clone())), ("other.weight", nn.Parameter(_random((6, 5), 1)))]
    apart = [(f"part{number}", nn.Parameter(value[index].clone())) for number, index in enumerate(indices)]
    apart.append(("other.weight", nn.Parameter(_random((6, 5), 1))))
    return _optimizer(own, strategy, split={"qkv_proj": split}), _optimizer(apart, strategy)


def _step(split: WarpAdam, separate: WarpAdam, kind: str, seed: int) -> None:
    shape, _, indices = KINDS[kind]
    (whole, other), (*parts, same) = split.param_groups[0]["params"], separate.param_groups[0]["params"]
    whole.grad, other.grad, same.grad = _random(shape, seed), _random((6, 5), -seed), _random((6, 5), -seed)
    for part, index in zip(parts, indices, strict=True):
        part.grad = whole.grad[index].clone()
    split.step()
    separate.step()
    for part, index in zip(parts, indices, strict=True):
        torch.testing.assert_close(whole[index], part, rtol=1e-9, atol=1e-9)


@each_strategy
@each_kind
def test_a_split_parameter_moves_as_separate_ones(kind: str, strategy: Strategy) -> None:
    split, separate = _split_and_separate(kind, strategy)
    for seed in range(1, STEPS):
        _step(split, separate, kind, seed)
    separate_p = [separate.get_distortion(param) for param in separate.param_groups[0]["params"][:-1]]
    expected = {f"{index}.{name}": value for index, own in enumerate(separate_p) for name, value in own.items()}
    found = split.get_distortion(split.param_groups[0]["params"][0])
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-7)


@each_strategy
@each_kind
def test_a_checkpoint_of_a_split_parameter_goes_on_exactly(kind: str, strategy: Strategy) -> None:
    split, separate = _split_and_separate(kind, strategy)
    for seed in range(1, 5):
        _step(split, separate, kind, seed)
    saved = io.BytesIO()
    torch.save(split.state_dict(), saved)
    again, separate_again = _split_and_separate(kind, strategy)
    again.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    separate_again.load_state_dict(separate.state_dict())
    pairs = ((again, split), (separate_again, separate))
    for new, old in pairs:
        for param, other in zip(new.param_groups[0]["params"], old.param_groups[0]["params"], strict=True):
            param.data.copy_(other.data)
    copied, separate_copied = copy.deepcopy(split), copy.deepcopy(separate)
    for seed in range(5, STEPS):
        _step(split, separate, kind, seed)
        _step(again, separate_again, kind, seed)
        _step(copied, separate_copied, kind, seed)
    value = split.param_groups[0]["params"][0]
    assert torch.equal(value, again.param_groups[0]["params"][0])
    assert torch.equal(value, copied.param_groups[0]["params"][0])


def test_a_state_without_parts_is_refused_by_name() -> None:
    param = nn.Parameter(torch.ones(6, 4))
    param.grad = torch.ones(6, 4)
    plain = WarpAdam([("qkv.weight", param)])
    plain.step()
    split = WarpAdam([("qkv.weight", param)], split={"qkv": 3})
    with pytest.raises(WarpMismatchError, match=r"'qkv.weight', part 0, has no step"):
        split.load_state_dict(plain.state_dict())
    split.step()
    with pytest.raises(WarpMismatchError, match=r"'qkv.weight' has no step"):
        plain.load_state_dict(split.state_dict())


def test_p_of_parts_can_be_carried_over() -> None:
    params = [("qkv.weight", nn.Parameter(torch.ones(6, 4))) for _ in range(2)]
    first, second = (WarpAdam([param], split={"qkv": 3}) for param in params)
    params[0][1].grad = _random((6, 4), 0).float()
    first.step()
    second.set_distortion(params[1][1], first.get_distortion(params[0][1]))
    for name, value in second.get_distortion(params[1][1]).items():
        assert torch.equal(value, first.get_distortion(params[0][1])[name])


@pytest.mark.parametrize(
    "pattern", ["qkv_proj", "attn.qkv_proj", "qkv_proj.weight", "h.0.attn.qkv_proj.weight", "*qkv*"]
)
def test_a_pattern_is_part_of_a_dotted_name(pattern: str) -> None:
    param = nn.Parameter(torch.ones(6, 4))
    optimizer = WarpAdam([("h.0.attn.qkv_proj.weight", param)], split={pattern: 3})
    assert [row.name for row in diagnose(optimizer)] == [f"h.0.attn.qkv_proj.weight[{index}]" for index in range(3)]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"kqv": 3}, r"must match the name of a parameter or module \(got 'kqv'\)"),
        ({"q": 3}, "must match the name of a parameter or module"),
        ({"qkv": 4}, r"does not divide axis 0 of parameter 'qkv.weight' of shape \(6, 4\)"),
        ({"qkv": [4, 1, 2]}, "must add up to 6, the length of axis 0 of parameter 'qkv.weight'.*not to 7"),
        ({"qkv": {"parts": 3, "dim": 1}}, "does not divide axis 1"),
        ({"qkv": {"parts": 2, "dim": 2}}, "it has no axis 2"),
        ({"qkv": {"parts": 2, "axis": 1}}, "must be a number of equal parts"),
        ({"qkv": {"dim": 1}}, "must be a number of equal parts"),
        ({"qkv": 0}, "must be a number of equal parts"),
        ({"qkv": "all"}, "must be a number of equal parts"),
        ({"qkv": [6, 0]}, "must be a number of equal parts"),
        ({"qkv": numpy.array([4, 2])}, "must be a number of equal parts"),
        ({"qkv": torch.tensor([4, 2])}, "must be a number of equal parts"),
        ({"qkv": numpy.array([4, 2]), "qkv.weight": numpy.array([4, 2])}, "must be a number of equal parts"),
        ({"qkv": 3, "qkv.weight": 2}, "matches 'qkv.weight', and so does another"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(split: Any, message: str) -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(4, 6, bias=False)})
    with pytest.raises(InvalidConfigError, match=message):
        WarpAdam(model.named_parameters(), split=split)
    with pytest.raises(InvalidConfigError, match=message):
        WarpAdam([{"params": list(model.named_parameters()), "split": split}])
    with pytest.raises(InvalidConfigError, match=message):
        param_groups(model, split=split)


def test_two_names_may_ask_for_the_same_in_other_words() -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(4, 6, bias=False)})
    optimizer = WarpAdam(
        model.named_parameters(), split={"qkv": [2, 2, 2], "weight": {"parts": (2, 2, numpy.int64(2))}}
    )
    assert [row.shape for row in diagnose(optimizer)] == [(2, 4)] * 3


def test_a_split_by_name_needs_names() -> None:
    with pytest.raises(InvalidConfigError, match="needs parameters with names"):
        WarpAdam([nn.Parameter(torch.ones(6, 4))], split={"qkv": 3})


def test_a_split_of_a_group_needs_no_names() -> None:
    fused, other = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(2, 4))
    groups: list[dict[str, Any]] = [{"params": [fused], "split": 3}, {"params": [other]}]
    optimizer = WarpAdam(groups)
    assert [row.shape for row in diagnose(optimizer)] == [(2, 4)] * 3 + [(2, 4)]


def test_param_groups_and_estimates_see_the_parts() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "out": nn.Linear(8, 2)})
    split = {"in_proj_weight": 3, "in_proj_bias": 3}
    groups = param_groups(model, split=split)
    optimizer = WarpAdam(groups)
    rows = {row.name: row for row in diagnose(optimizer)}
    assert rows["attention.in_proj_weight[2]"].shape == (8, 8)
    estimate = {row.name: row for row in estimate_memory(param_groups(model, split=split))}
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert estimate["attention.in_proj_weight[2]"].p_bytes == next(
        row.p_bytes for row in diagnose(optimizer) if row.name == "attention.in_proj_weight[2]"
    )


def test_three_axes_without_a_split_stay_one_matrix() -> None:
    optimizer = WarpAdam([("conv.weight", nn.Parameter(torch.ones(6, 2, 3)))])
    assert [row.name for row in diagnose(optimizer)] == ["conv.weight"]


@each_strategy
def test_an_expert_without_gradient_stays_where_it_is(strategy: Strategy) -> None:
    param = nn.Parameter(_random((3, 4, 5), 0))
    before = param.detach().clone()
    optimizer = WarpAdam([("experts.weight", param)], **strategy._asdict(), **SETTINGS, split={"experts": "each"})
    for seed in range(STEPS):
        param.grad = _random((3, 4, 5), seed)
        param.grad[1] = 0
        optimizer.step()
    assert torch.equal(param[1], before[1])
    assert not torch.equal(param[0], before[0])
    assert param.isfinite().all()


def test_a_moved_parameter_is_seen_and_autograd_is_told() -> None:
    param = nn.Parameter(torch.ones(6, 4))
    optimizer = WarpAdam([("qkv.weight", param)], split={"qkv": 3})
    for _ in range(2):
        param.data = param.data.clone()
        before, version = param.detach().clone(), param._version
        param.grad = torch.ones(6, 4)
        optimizer.step()
        assert not torch.equal(param, before)
        assert param._version > version


def test_skipped_updates_of_every_part_are_counted() -> None:
    param = nn.Parameter(torch.zeros(8, 4))
    optimizer = WarpAdam([("w", param)], split={"w": 2})
    for size in (1.0, 1e15):
        param.grad = torch.full((8, 4), size)
        optimizer.step()
    assert optimizer.skipped_updates == 2
