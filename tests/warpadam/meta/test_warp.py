"""Moving a P to another optimizer: what is taken, what then stays fixed; everything that does not fit is reported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import (
    STRATEGIES,
    InvalidConfigError,
    Learner,
    Placement,
    Strategy,
    Structure,
    Warp,
    WarpAdam,
    WarpMismatchError,
    param_groups,
)

LEARNED = [strategy for strategy in STRATEGIES if strategy.learner != Learner.FROZEN]


def _model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))


def _train(model: nn.Module, optimizer: WarpAdam, seeds: range) -> None:
    for seed in seeds:
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        (model(inputs) - 1).square().mean().backward()
        optimizer.step()


def _learned(strategy: Strategy, **settings: Any) -> Warp:
    model = _model()
    optimizer = WarpAdam(model.named_parameters(), 0.01, **strategy._asdict(), meta_every=1, p_lr=0.05, **settings)
    _train(model, optimizer, range(8))
    return Warp.of(optimizer)


ROTATION = Strategy(Structure.KRONECKER, Placement.SANDWICH, Learner.ROTATION)
WHITENING = Strategy(Structure.KRONECKER, Placement.PRE, Learner.WHITENING)
DIAGONAL = STRATEGIES[2]


@pytest.mark.parametrize("strategy", LEARNED, ids=str)
def test_everything_learned_is_taken_over_and_moments_start_at_zero(strategy: Strategy) -> None:
    warp = _learned(strategy)
    model = _model()
    optimizer = warp.optimizer(model.named_parameters(), learn=True, lr=0.5)
    for name, param in model.named_parameters():
        given = optimizer.get_distortion(param)
        assert given.keys() == warp.parameters[name].tensors.keys()
        assert all(torch.equal(value, warp.parameters[name].tensors[key]) for key, value in given.items())
        assert not optimizer.state[param]["step"]
        assert not optimizer.state[param]["exp_avg_sq"].any()
    assert (optimizer.defaults["lr"], optimizer.defaults["p_lr"]) == (0.5, 0.05)


@pytest.mark.parametrize("strategy", LEARNED, ids=str)
def test_without_learning_only_what_follows_covariances_moves(strategy: Strategy) -> None:
    warp = _learned(strategy)
    model = _model()
    optimizer = warp.optimizer(model.named_parameters())
    _train(model, optimizer, range(20, 25))
    follows = strategy.learner in (Learner.ROTATION, Learner.WHITENING)
    turning_vectors = strategy.learner == Learner.ROTATION and strategy.structure == Structure.FULL
    for name, param in model.named_parameters():
        now, given = optimizer.get_distortion(param), warp.parameters[name].tensors
        for key, value in given.items():
            if key == "log_scale":
                torch.testing.assert_close(now[key].sort()[0], value.sort()[0], rtol=0, atol=0)
            else:
                assert torch.equal(now[key], value) != (follows and (param.ndim == 2 or turning_vectors))
    assert follows == ("log_scale" in warp.parameters["0.weight"].tensors)


def test_a_carried_scale_acts_on_a_rotation_that_follows_and_does_not_learn() -> None:
    """Written from the formulas: every refresh permutes s with the basis, and S multiplies the direction."""
    param = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
    numbers: dict[str, Any] = {"betas": (0.8, 0.95), "cov_beta": 0.9, "meta_every": 1, "p_lr": 0.0, "eps": 0.0}
    optimizer = WarpAdam([("w", param)], 0.1, **ROTATION._asdict(), **numbers)
    log_scale = torch.tensor([1.0, -0.5, 0.3, 0.2, -1.0], dtype=torch.float64)
    rows, columns = torch.eye(3).double(), torch.eye(2).double()
    s_rows, s_columns = log_scale[:3], log_scale[3:]
    left, right = torch.diag(torch.tensor([0.5, 1.0, 2.0])).double(), torch.diag(torch.tensor([1.0, 3.0])).double()
    covariances = {"row_covariance": left, "column_covariance": right}
    optimizer.set_distortion(param, {**covariances, "log_scale": log_scale})
    expected, mean, square = (torch.zeros(3, 2).double() for _ in range(3))
    for step in range(1, 8):
        grad = torch.randn(3, 2, generator=torch.Generator().manual_seed(step)).double()
        if step == 1:
            left, right = 0.9 * left + 0.1 * grad @ grad.mT, 0.9 * right + 0.1 * grad.mT @ grad
        rows, order = _turn(rows, left)
        square, s_rows = square[order], s_rows[order]
        columns, order = _turn(columns, right)
        square, s_columns = square[:, order], s_columns[order]
        mean = 0.8 * mean + 0.2 * grad
        square = 0.95 * square + 0.05 * (rows @ grad @ columns.mT) ** 2
        update = (rows @ mean @ columns.mT) / (1 - 0.8**step) / (square / (1 - 0.95**step)).sqrt()
        scaled = update * (s_rows[:, None] + s_columns[None, :]).clamp(-2, 2).exp()
        expected = expected - 0.1 * rows.mT @ scaled @ columns
        if step > 1:
            left, right = 0.9 * left + 0.1 * grad @ grad.mT, 0.9 * right + 0.1 * grad.mT @ grad
        param.grad = grad.clone()
        optimizer.step()
        torch.testing.assert_close(param.detach(), expected, rtol=1e-9, atol=1e-10)
    assert torch.equal(optimizer.get_distortion(param)["log_scale"], torch.cat((s_rows, s_columns)))


def _turn(basis: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    ridge = 1e-4 * covariance.trace() / len(covariance) * torch.eye(len(covariance), dtype=torch.float64)
    power = (covariance + ridge) @ basis.mT
    order = (basis.mT * power).sum(0).argsort(descending=True)
    return torch.linalg.qr(power[:, order])[0].mT, order


def _renamed(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name.replace("1.", "head."), param) for name, param in model.named_parameters()]


def test_every_mismatch_is_listed_and_nothing_is_given() -> None:
    warp = _learned(ROTATION)
    other = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 2))
    optimizer = WarpAdam(_renamed(other), **ROTATION._asdict(), meta_every=1)
    _train(other, optimizer, range(3))
    before = {key: value.clone() for key, value in optimizer.state[other.get_parameter("0.weight")].items()}
    with pytest.raises(WarpMismatchError) as caught:
        warp.apply(optimizer)
    assert [line.split(" of ")[0].split(" is ")[0] for line in caught.value.mismatches] == [
        "shape: '0.weight'",
        "shape: '0.bias'",
        "missing: 'head.weight'",
        "missing: 'head.bias'",
        "unexpected: '1.weight'",
        "unexpected: '1.bias'",
    ]
    assert all(line in str(caught.value) for line in caught.value.mismatches)
    after = optimizer.state[other.get_parameter("0.weight")]
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_not_strict_takes_what_fits_and_returns_the_rest() -> None:
    warp = _learned(ROTATION)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    optimizer = WarpAdam(model.named_parameters(), **ROTATION._asdict())
    left = warp.apply(optimizer, strict=False)
    assert [line.split(" is ")[0] for line in left] == ["shape: '1.weight'", "shape: '1.bias'"]
    taken = optimizer.get_distortion(model.get_parameter("0.weight"))
    assert torch.equal(taken["log_scale"], warp.parameters["0.weight"].tensors["log_scale"])
    assert not optimizer.get_distortion(model.get_parameter("1.weight"))["log_scale"].any()


@pytest.mark.parametrize(
    ("strategy", "target", "fits"),
    [
        (ROTATION, ROTATION._replace(learner=Learner.FROZEN), True),
        (DIAGONAL, DIAGONAL._replace(learner=Learner.FROZEN), True),
        (WHITENING, WHITENING._replace(learner=Learner.FROZEN), False),
        (ROTATION, ROTATION._replace(learner=Learner.HYPERGRADIENT), False),
        (DIAGONAL, STRATEGIES[0], False),
    ],
    ids=str,
)
def test_the_rule_that_made_p_is_kept(strategy: Strategy, target: Strategy, fits: bool) -> None:
    optimizer = WarpAdam(_model().named_parameters(), **target._asdict())
    left = _learned(strategy).apply(optimizer, strict=False)
    assert [line.split(":")[0] for line in left] == ([] if fits else ["strategy"] * 4)


def test_factors_of_another_rank_are_listed_by_name() -> None:
    warp = _learned(STRATEGIES[5], rank=2)
    with pytest.raises(WarpMismatchError) as caught:
        warp.apply(WarpAdam(_model().named_parameters(), **STRATEGIES[5]._asdict(), rank=1))
    assert len(caught.value.mismatches) == 4
    assert all(line.startswith("tensor: ") for line in caught.value.mismatches)


@pytest.mark.parametrize("use", [Warp.of, lambda optimizer: _learned(ROTATION).apply(optimizer)])
def test_an_optimizer_without_names_is_refused(use: Any) -> None:
    with pytest.raises(InvalidConfigError, match="named_parameters"):
        use(WarpAdam(_model().parameters()))


def test_each_group_keeps_its_own_strategy() -> None:
    first, second = nn.Linear(4, 5), nn.Linear(5, 2)
    groups = [{"params": list(first.named_parameters())}, {"params": list(second.named_parameters("2"))}]
    optimizer = WarpAdam([{**groups[0], **DIAGONAL._asdict()}, groups[1]], **ROTATION._asdict())
    warp = Warp.of(optimizer)
    assert [warp.parameters[name].strategy for name in ("weight", "2.weight")] == [DIAGONAL, ROTATION]
    assert warp.apply(optimizer) == ()


def test_a_p_of_a_model_goes_back_to_a_model() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    first = WarpAdam(model, lr=0.02)
    _train(model, first, range(8))
    again = Warp.of(first).optimizer(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)), meta_every=3)
    assert {group["p_lr"] for group in again.param_groups} == {0.0}
    assert {group["meta_every"] for group in again.param_groups} == {3}
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in first.param_groups]
    assert Warp.of(again).tensors().keys() == Warp.of(first).tensors().keys()


@pytest.mark.parametrize("learn", [False, True])
def test_given_groups_learn_only_if_asked(*, learn: bool) -> None:
    model = _model()
    warp = Warp.of(WarpAdam(param_groups(model)))
    optimizer = warp.optimizer(param_groups(model), learn=learn)
    assert all((group["p_lr"] > 0) == learn for group in optimizer.param_groups)


def test_a_frozen_parameter_needs_no_p() -> None:
    model = _model()
    model.get_parameter("1.bias").requires_grad_(False)
    first = WarpAdam(model, **ROTATION._asdict())
    _train(model, first, range(3))
    warp = Warp.of(first)
    assert "1.bias" not in warp.parameters
    optimizer = warp.optimizer(model.named_parameters())
    taken = optimizer.get_distortion(model.get_parameter("1.weight"))
    assert torch.equal(taken["row_factor"], warp.parameters["1.weight"].tensors["row_factor"])
    _train(model, optimizer, range(3))
    with pytest.raises(WarpMismatchError, match=r"missing: '1.bias' of shape \(2,\) has no P"):
        warp.optimizer(_model().named_parameters())


@pytest.mark.parametrize("as_model", [False, True])
def test_p_of_a_split_model_is_taken_by_one_with_the_same_split(*, as_model: bool) -> None:
    model, again = _model(), _model()
    split = {"1.weight": 2}
    first = WarpAdam(model if as_model else model.named_parameters(), split=split)
    _train(model, first, range(3))
    warp = Warp.of(first)
    optimizer = warp.optimizer(
        again if as_model else again.named_parameters(), split=split, momentum_dtype=torch.bfloat16, maximize=True
    )
    taken = optimizer.get_distortion(again.get_parameter("1.weight"))
    assert torch.equal(taken["1.row_factor"], warp.parameters["1.weight"].tensors["1.row_factor"])
    before = again.get_parameter("0.weight").detach().clone()
    _train(again, optimizer, range(1))
    weight = again.get_parameter("0.weight")
    assert weight.grad is not None
    assert ((weight - before) * weight.grad).sum() > 0
    assert optimizer.state[weight]["exp_avg"].dtype == torch.bfloat16
