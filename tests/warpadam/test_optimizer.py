"""WarpAdam as a torch optimizer: AdamW if P is the identity, groups, missing gradients, and clear errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from warpadam import (
    STRATEGIES,
    InvalidConfigError,
    Learner,
    Strategy,
    UnsupportedParameterError,
    Warp,
    WarpAdam,
    WarpAdamConfig,
    param_groups,
)
from warpadam.config import DEFAULT_LR

FROZEN = [strategy for strategy in STRATEGIES if strategy.learner == Learner.FROZEN]
SHAPES: list[tuple[int, ...]] = [(6, 4), (7,), (3, 2, 3, 3), (), (9, 11), (1, 5), (0,)]


def _params(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, dtype=torch.float64, generator=generator).to(dtype)) for s in SHAPES]


def _set_grads(params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, dtype=torch.float64, generator=generator).to(param.dtype)


def _small(learner: str = "rotation", **settings: Any) -> tuple[nn.Parameter, WarpAdam]:
    param = nn.Parameter(torch.ones(3, 2))
    return param, WarpAdam([param], learner=learner, **settings)


@pytest.mark.parametrize("strategy", FROZEN, ids=str)
def test_with_p_the_identity_it_is_adamw(strategy: Strategy) -> None:
    ours, theirs = _params(), _params()
    numbers: dict[str, Any] = {"lr": 0.03, "betas": (0.85, 0.98), "eps": 1e-7, "weight_decay": 0.1}
    warp = WarpAdam(ours, **numbers, **strategy._asdict(), max_dim=8, block_size=16, rank=3)
    adamw = torch.optim.AdamW(theirs, **numbers)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40) for optimizer in (warp, adamw)]
    for step in range(50):
        for params, optimizer, schedule in zip((ours, theirs), (warp, adamw), schedules, strict=True):
            _set_grads(params, step)
            optimizer.step()
            schedule.step()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_strategy_steps_every_shape_and_dtype_with_fp32_state(strategy: Strategy, dtype: torch.dtype) -> None:
    params = _params(dtype)
    optimizer = WarpAdam(params, 0.01, **strategy._asdict(), max_dim=8, block_size=16, meta_every=1)
    for step in range(5):
        _set_grads(params, step)
        optimizer.step()
    for param in params:
        assert param.dtype == dtype
        assert param.isfinite().all()
        assert {value.dtype for value in optimizer.state[param].values()} == {torch.float32}


def test_any_strides_give_the_same_step() -> None:
    results = []
    for transposed in (False, True):
        start = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
        param = nn.Parameter(start.mT.contiguous().mT if transposed else start)
        optimizer = WarpAdam([param], 0.1, meta_every=1)
        for _ in range(5):
            grad = param.detach() ** 3 - 0.1
            param.grad = grad.mT.contiguous().mT if transposed else grad.contiguous()
            optimizer.step()
        results.append(param.detach())
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_maximize_climbs() -> None:
    descending, ascending = _small()[0], _small()[0]
    down, up = WarpAdam([descending], 0.1), WarpAdam([ascending], 0.1, maximize=True)
    for seed in range(4):
        _set_grads([descending, ascending], seed)
        descending.grad, ascending.grad = ascending.grad, -ascending.grad  # type: ignore[operator]
        down.step()
        up.step()
    assert torch.equal(descending, ascending)


def test_a_closure_is_called_once_with_gradients_enabled() -> None:
    param, optimizer = _small()
    losses: list[Tensor] = []

    def closure() -> float:
        optimizer.zero_grad()
        losses.append(param.square().sum())
        losses[-1].backward()  # type: ignore[no-untyped-call]
        return losses[-1].item()

    with torch.no_grad():
        assert optimizer.step(closure) == 6.0
    assert len(losses) == 1
    assert not torch.equal(param, torch.ones(3, 2))
    assert optimizer.step() is None


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_parameter_without_a_gradient_waits(strategy: Strategy) -> None:
    """Steps without a gradient leave no trace: the pair that judges P is the last two gradients that there were."""
    results = []
    for pauses in (False, True):
        param = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
        optimizer = WarpAdam([param], 0.1, **strategy._asdict(), meta_every=2)
        for seed in range(6):
            _set_grads([param], seed)
            optimizer.step()
            if pauses:
                optimizer.zero_grad()
                optimizer.step()
        results.append(param.detach())
    assert torch.equal(*results)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_gradients_that_are_overwritten_in_place_are_not_missed(strategy: Strategy) -> None:
    results = []
    for in_place in (False, True):
        param = nn.Parameter(torch.ones(4, 3))
        optimizer = WarpAdam([param], 0.1, **strategy._asdict(), meta_every=1)
        for _ in range(6):
            optimizer.zero_grad(set_to_none=not in_place)
            (param.cos() * torch.arange(12.0).view(4, 3)).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        results.append(param.detach())
    assert torch.equal(*results)


def test_frozen_parameters_keep_no_state() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    optimizer = WarpAdam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert set(optimizer.state) == set(model[1].parameters())


def test_each_group_has_its_own_strategy() -> None:
    matrix, vector, other = (nn.Parameter(torch.ones(shape)) for shape in [(4, 3), (4,), (2, 2)])
    groups = [
        {"params": [matrix], "structure": "low_rank", "learner": "hypergradient", "rank": 1},
        {"params": [vector], "lr": 0.5, "structure": "full", "learner": "frozen"},
    ]
    optimizer = WarpAdam(groups, lr=0.1)
    optimizer.add_param_group({"params": other})
    _set_grads([matrix, vector, other], 0)
    optimizer.step()
    assert set(optimizer.get_distortion(matrix)) == {"left", "right"}
    assert set(optimizer.get_distortion(vector)) == {"blocks"}
    assert {"row_factor", "column_factor"} < set(optimizer.get_distortion(other))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5, 0.1]
    torch.testing.assert_close((vector - 1).abs(), torch.full((4,), 0.5))


@pytest.mark.parametrize(
    ("settings", "group", "expected"),
    [
        ({}, {"structure": "diagonal"}, "diagonal/sandwich/hypergradient"),
        ({}, {"structure": "full"}, "full/pre/whitening"),
        ({}, {"learner": "rotation"}, "kronecker/sandwich/rotation"),
        ({"structure": "low_rank"}, {"placement": "post"}, "low_rank/post/hypergradient"),
        ({"structure": "low_rank"}, {"learner": "whitening"}, "kronecker/pre/whitening"),
        ({"learner": "rotation"}, {"lr": 0.5}, "kronecker/sandwich/rotation"),
        ({"learner": "rotation"}, {"structure": None}, "kronecker/sandwich/rotation"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_group_completes_what_the_optimizer_has_not_for_it(
    settings: dict[str, Any], group: dict[str, Any], expected: str, late: bool
) -> None:
    first, param = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": [param], **group}]
    optimizer = WarpAdam(groups[:1] if late else groups, **settings)
    if late:
        optimizer.add_param_group(groups[1])
    strategies = ["/".join(own[name] for name in Strategy._fields) for own in optimizer.param_groups]
    assert strategies == [str(WarpAdamConfig(**settings).strategy), expected]
    _set_grads([first, param], 0)
    optimizer.step()
    assert not torch.equal(param, torch.ones(3, 2))


BAD_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("lr", {"lr": -1.0}),
    ("beta2", {"betas": (0.9, 1.0)}),
    ("rank", {"rank": 0}),
    ("structure", {"structure": "dense"}),
    ("learner", {"learner": "rotation", "placement": "pre"}),
    ("learner", {"learner": "whitening", "structure": "diagonal"}),
]


@pytest.mark.parametrize("made", [list, tuple, iter, itemgetter(0)], ids=["list", "tuple", "iterator", "one"])
def test_parameters_without_names_may_be_added_to_those_with_names(made: Any) -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = WarpAdam(first.named_parameters())
    optimizer.add_param_group({"params": made(list(second.parameters()))})
    optimizer.add_param_group({"params": nn.Linear(2, 1).named_parameters("third")})
    before = second.weight.detach().clone()
    second(first(torch.ones(2, 3))).square().sum().backward()
    optimizer.step()
    assert not torch.equal(second.weight, before)
    assert optimizer.param_groups[1]["param_names"][0] == "0 of group 1"
    assert set(Warp.of(optimizer).parameters) > {"weight", "0 of group 1", "third.bias"}
    second.weight.grad = torch.eye(3).to_sparse()
    with pytest.raises(UnsupportedParameterError, match="'0 of group 1'"):
        optimizer.step()


def test_names_that_are_missing_for_some_of_the_added_parameters_are_refused_as_torch_does() -> None:
    optimizer = WarpAdam(nn.Linear(3, 3).named_parameters())
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match="Some param names are missing"):
        optimizer.add_param_group({"params": [("a", params[0]), params[1]]})
    with pytest.raises(TypeError, match="ordered collections"):
        optimizer.add_param_group({"params": set(params)})
    optimizer.add_param_group({"params": params, "param_names": ["a", "b"]})
    assert optimizer.param_groups[1]["param_names"] == ["a", "b"]


@pytest.mark.parametrize(("field", "settings"), BAD_SETTINGS)
def test_bad_settings_are_refused_in_the_constructor_and_in_a_group(field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        WarpAdam([nn.Parameter(torch.ones(2))], **settings)
    assert caught.value.field == field
    optimizer = _small()[1]
    with pytest.raises(InvalidConfigError) as caught:
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **settings})
    assert caught.value.field == field
    assert len(optimizer.param_groups) == 1


def test_the_defaults_are_those_of_the_config() -> None:
    defaults = dict(WarpAdam([nn.Parameter(torch.ones(2))]).defaults)
    others = {name: defaults.pop(name) for name in ("maximize", "momentum_dtype", "split")}
    assert others == {"maximize": False, "momentum_dtype": None, "split": None}
    assert WarpAdamConfig(**defaults) == WarpAdamConfig()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_default_lr_follows_the_learner(strategy: Strategy) -> None:
    expected = DEFAULT_LR[strategy.learner]
    param, other = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    assert WarpAdam([param], **strategy._asdict()).defaults["lr"] == expected
    assert WarpAdamConfig().changed(**strategy._asdict()).lr == expected
    whitening = DEFAULT_LR["whitening"]
    for lr, found in ((None, [whitening, expected]), (0.5, [0.5, 0.5]), (0.03, [0.03, 0.03])):
        optimizer = WarpAdam([{"params": [param]}, {"params": [other], **strategy._asdict()}], lr)
        assert [group["lr"] for group in optimizer.param_groups] == found
    layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert max(group["lr"] for group in param_groups(layers, **strategy._asdict())) == expected


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("weight_deacy", "weight_decay"),
        ("beta", "betas"),
        ("lerner", "learner"),
        ("meta_evry", "meta_every"),
        ("maximise", "maximize"),
        ("learning_rate", "lr"),
    ],
)
def test_a_misspelt_setting_of_a_group_is_refused(misspelt: str, meant: str) -> None:
    optimizer = _small()[1]
    group = {"params": [nn.Parameter(torch.ones(2))], misspelt: 0.5}
    for add in (optimizer.add_param_group, lambda own: WarpAdam([own])):
        with pytest.raises(InvalidConfigError, match=rf"{misspelt}: is not a setting .* Did you mean '{meant}'\?"):
            add(dict(group))
    assert len(optimizer.param_groups) == 1


def test_a_group_may_hold_numbers_of_schedulers_and_of_the_user() -> None:
    names = (
        "initial_lr",
        "max_lr",
        "min_lr",
        "base_momentum",
        "swa_lr",
        "name",
        "lr_scale",
        "weight_decay_scale",
        "layer",
    )
    WarpAdam([{"params": [nn.Parameter(torch.ones(2))], **dict.fromkeys(names, 1.0)}])


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("lr", numpy.float32(0.5), 0.5),
        ("lr", numpy.float64(0.5), 0.5),
        ("rank", numpy.int64(3), 3),
        ("meta_every", 5.0, 5),
        ("betas", (numpy.float32(0.5), numpy.float64(0.75)), (0.5, 0.75)),
    ],
    ids=str,
)
def test_numbers_of_numpy_are_numbers(name: str, value: Any, plain: Any) -> None:
    settings: dict[str, Any] = {name: value}
    found = [
        getattr(WarpAdamConfig(**settings), name),
        WarpAdam([nn.Parameter(torch.ones(2))], **settings).param_groups[0][name],
        WarpAdam([{"params": [nn.Parameter(torch.ones(2))], **settings}]).param_groups[0][name],
    ]
    for own in found[:2] if name == "lr" else found:
        assert own == plain
        assert type(own) is type(plain)


def test_from_config_takes_every_field() -> None:
    config = WarpAdamConfig(lr=0.5, betas=(0.1, 0.2), structure="full", learner="frozen", rank=9, p_decay=0.5)
    params = nn.Linear(2, 2).parameters()
    optimizer = WarpAdam.from_config(params, config, maximize=True, momentum_dtype=torch.bfloat16)
    defaults = dict(optimizer.defaults)
    others = {name: defaults.pop(name) for name in ("maximize", "momentum_dtype", "split")}
    assert others == {"maximize": True, "momentum_dtype": torch.bfloat16, "split": None}
    assert WarpAdamConfig(**defaults) == config


def test_a_complex_parameter_is_refused_by_name() -> None:
    named = [("good", nn.Parameter(torch.ones(2))), ("phase", nn.Parameter(torch.ones(2, 3, dtype=torch.complex64)))]
    with pytest.raises(UnsupportedParameterError, match=r"'phase' of shape \(2, 3\) is complex"):
        WarpAdam(named)


def test_a_refused_group_is_not_added() -> None:
    optimizer = _small()[1]
    with pytest.raises(UnsupportedParameterError, match="parameter 0 of group 1"):
        optimizer.add_param_group({"params": nn.Parameter(torch.ones(2, dtype=torch.complex64))})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(("named", "where"), [(True, "'table.weight'"), (False, "1 of group 0")])
def test_a_sparse_gradient_is_refused_by_name_before_anything_moved(named: bool, where: str) -> None:
    model = nn.ModuleDict({"line": nn.Linear(2, 2, bias=False), "table": nn.Embedding(5, 2, sparse=True)})
    optimizer = WarpAdam(model.named_parameters() if named else model.parameters())
    before = [param.detach().clone() for param in model.parameters()]
    model["line"](model["table"](torch.tensor([1, 3]))).sum().backward()
    with pytest.raises(UnsupportedParameterError, match=rf"gradient of parameter {where} of shape \(5, 2\) is sparse"):
        optimizer.step()
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=8),
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 4),
    ],
    ids=["one_cycle_with_cycled_betas", "linear_warm_up"],
)
def test_schedulers_move_lr_and_betas(make: Any) -> None:
    param, optimizer = _small(meta_every=1)
    schedule = make(optimizer)
    seen = set()
    for seed in range(6):
        _set_grads([param], seed)
        optimizer.step()
        schedule.step()
        seen.add(optimizer.param_groups[0]["lr"])
    assert len(seen) >= 4
    assert param.isfinite().all()


def test_lr_zero_leaves_the_parameters() -> None:
    param, optimizer = _small(lr=0.0, weight_decay=0.5)
    _set_grads([param], 0)
    optimizer.step()
    assert torch.equal(param, torch.ones(3, 2))


def test_grad_scaler_with_an_overflow_skips_the_whole_step() -> None:
    param, optimizer = _small(learner="hypergradient", meta_every=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (1.0, 2.0, 3.0, float("inf"), 4.0):
        optimizer.zero_grad()
        scaler.scale((factor * param).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.state[param]["step"] == 4
    assert optimizer.skipped_updates == 0
    assert param.isfinite().all()


def test_the_global_random_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    for structure in ("low_rank", "full"):
        param, optimizer = _small(learner="hypergradient", structure=structure)
        param.grad = torch.ones(3, 2)
        optimizer.step()
    assert torch.equal(torch.get_rng_state(), before)


def reloaded(optimizer: WarpAdam) -> WarpAdam:
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


@pytest.mark.parametrize("again", [lambda optimizer: optimizer, copy.deepcopy, reloaded], ids=["same", "copy", "load"])
def test_a_group_that_is_added_later_has_the_lr_of_its_learner(again: Callable[[WarpAdam], WarpAdam]) -> None:
    optimizer = again(WarpAdam([nn.Parameter(torch.zeros(2, 2))]))
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))], "learner": "frozen"})
    assert optimizer.param_groups[1]["lr"] == DEFAULT_LR[Learner.FROZEN]
    given = again(WarpAdam([nn.Parameter(torch.zeros(2, 2))], lr=0.1))
    given.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))], "learner": "frozen"})
    assert given.param_groups[1]["lr"] == 0.1
