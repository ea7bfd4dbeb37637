"""A given P that does not change: the trajectory is the one of the learner that made it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from warpadam import STRATEGIES, InvalidConfigError, Learner, Placement, Strategy, Structure, WarpAdam

LEARNED = [strategy for strategy in STRATEGIES if strategy.learner != Learner.FROZEN]
ROTATION = Strategy(Structure.KRONECKER, Placement.SANDWICH, Learner.ROTATION)
SHAPES: list[tuple[int, ...]] = [(4, 3), (3, 2, 2), (5,), (0, 9), ()]


def _gradient(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _optimizer(shape: tuple[int, ...], strategy: Strategy, **settings: Any) -> tuple[torch.nn.Parameter, WarpAdam]:
    param = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    return param, WarpAdam([param], 0.1, **strategy._asdict(), max_dim=8, meta_every=1, **settings)


def _train(param: Tensor, optimizer: WarpAdam, seeds: range) -> Tensor:
    for seed in seeds:
        param.grad = _gradient(tuple(param.shape), seed)
        optimizer.step()
    return param.detach()


def _learned(shape: tuple[int, ...], strategy: Strategy) -> dict[str, Tensor]:
    param, optimizer = _optimizer(shape, strategy, p_lr=0.05)
    _train(param, optimizer, range(12))
    return optimizer.get_distortion(param)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strategy", LEARNED, ids=str)
def test_a_learned_p_is_taken_over_and_never_changed(strategy: Strategy, shape: tuple[int, ...]) -> None:
    distortion = _learned(shape, strategy)
    param, optimizer = _optimizer(shape, strategy._replace(learner=Learner.FROZEN), p_lr=0.5)
    optimizer.set_distortion(param, distortion)
    _train(param, optimizer, range(20, 26))
    kept = optimizer.get_distortion(param)
    assert all(torch.equal(kept[name], value) for name, value in distortion.items())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strategy", [s for s in LEARNED if s.learner == Learner.HYPERGRADIENT], ids=str)
def test_frozen_is_hypergradient_that_stopped_learning(strategy: Strategy, shape: tuple[int, ...]) -> None:
    distortion = _learned(shape, strategy)
    results = []
    for learner in (Learner.FROZEN, Learner.HYPERGRADIENT):
        param, optimizer = _optimizer(shape, strategy._replace(learner=learner), p_lr=0.0)
        optimizer.set_distortion(param, distortion)
        results.append(_train(param, optimizer, range(20, 26)))
    assert torch.equal(*results)


@pytest.mark.parametrize("shape", [(4, 3), (3, 200)], ids=str)
def test_frozen_is_rotation_whose_basis_stands_still(shape: tuple[int, int]) -> None:
    """Gradients that are diagonal in the given basis, largest first, leave it where it is."""
    results = []
    for learner in (Learner.FROZEN, Learner.ROTATION):
        param, optimizer = _optimizer(shape, ROTATION._replace(learner=learner), p_lr=0.0)
        given = optimizer.get_distortion(param)
        given = {n: torch.linalg.qr(_gradient(tuple(f.shape), 5))[0] for n, f in given.items() if "factor" in n}
        given["log_scale"] = torch.linspace(-1, 1, sum(shape), dtype=torch.float64)
        optimizer.set_distortion(param, given)
        for seed in range(12):
            grad = torch.zeros(shape, dtype=torch.float64)
            grad.diagonal().copy_(torch.tensor([4.0, 2.0, 1.0]) * _gradient((3,), seed).sign())
            grad = given["row_factor"].mT @ grad
            param.grad = grad @ given["column_factor"] if "column_factor" in given else grad
            optimizer.step()
        results.append(param.detach())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    assert results[0].abs().max() > 0.01


@pytest.mark.parametrize("shape", [(5,), (0, 9)], ids=str)
def test_frozen_is_rotation_where_nothing_can_turn(shape: tuple[int, ...]) -> None:
    scale = {"log_scale": torch.linspace(-1, 1, sum(shape), dtype=torch.float64)}
    results = []
    for learner in (Learner.FROZEN, Learner.ROTATION):
        param, optimizer = _optimizer(shape, ROTATION._replace(learner=learner), p_lr=0.0)
        optimizer.set_distortion(param, scale)
        results.append(_train(param, optimizer, range(6)))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_rotation_continues_from_a_given_basis_and_scale() -> None:
    distortion = _learned((4, 3), ROTATION)
    param, optimizer = _optimizer((4, 3), ROTATION, p_lr=0.05)
    optimizer.set_distortion(param, distortion)
    _train(param, optimizer, range(20, 21))
    after = optimizer.get_distortion(param)
    torch.testing.assert_close(after["log_scale"].sort()[0], distortion["log_scale"].sort()[0], rtol=0, atol=0)
    agreement = (after["row_factor"] @ distortion["row_factor"].mT).abs()
    assert 0.7 < agreement.amax(1).min() < 1 - 1e-6  # it has turned once, and not far


def test_what_is_given_is_copied_and_brought_to_the_state_dtype() -> None:
    param = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))
    optimizer = WarpAdam([param], structure="diagonal", placement="pre", learner="frozen")
    given = torch.full((2, 2), 2.0, dtype=torch.float64)
    optimizer.set_distortion(param, {"diagonal": given})
    given.zero_()
    assert torch.equal(optimizer.get_distortion(param)["diagonal"], torch.full((2, 2), 2.0))


@pytest.mark.parametrize(
    ("distortion", "field"),
    [({"basis": torch.ones(2)}, "distortion"), ({"row_factor": torch.ones(3, 3)}, "row_factor")],
)
def test_a_p_that_does_not_fit_is_refused_whole(distortion: dict[str, Tensor], field: str) -> None:
    param, optimizer = _optimizer((4, 3), ROTATION)
    before = optimizer.get_distortion(param)
    with pytest.raises(InvalidConfigError) as caught:
        optimizer.set_distortion(param, {"column_factor": torch.zeros(3, 3), **distortion})
    assert caught.value.field == field
    assert torch.equal(optimizer.get_distortion(param)["column_factor"], before["column_factor"])


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_learned_scale_belongs_to_a_sandwich(placement: str) -> None:
    param = torch.nn.Parameter(torch.zeros(4, 3))
    optimizer = WarpAdam([param], placement=placement, learner="frozen")
    with pytest.raises(InvalidConfigError, match="log_scale"):
        optimizer.set_distortion(param, {"log_scale": torch.zeros(7)})


def test_a_foreign_parameter_is_a_key_error() -> None:
    _, optimizer = _optimizer((4, 3), ROTATION)
    with pytest.raises(KeyError, match=r"\(2, 2\)"):
        optimizer.get_distortion(torch.zeros(2, 2))


def test_any_constant_positive_diagonal_before_the_moments_is_invisible() -> None:
    results = []
    for diagonal in (torch.ones(4, 3), torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) + 0.1):
        param = torch.nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
        optimizer = WarpAdam([param], 0.1, structure="diagonal", placement="pre", learner="frozen")
        optimizer.set_distortion(param, {"diagonal": diagonal})
        results.append(_train(param, optimizer, range(50)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
