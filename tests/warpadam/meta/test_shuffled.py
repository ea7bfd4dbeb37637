"""A P in wrong coordinates: what a shuffled P keeps and what it loses, for every kind of P."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import STRATEGIES, Strategy, Warp, WarpAdam
from warpadam.structures import make_distortion

SHAPE = (6, 5)
ROTATION = next(strategy for strategy in STRATEGIES if strategy.learner == "rotation")


def learned(strategy: Strategy, **settings: Any) -> Warp:
    """P after some steps on gradients whose rows and columns have different sizes."""
    torch.manual_seed(0)
    model = nn.Linear(SHAPE[1], SHAPE[0])
    chosen = {"lr": 0.01, "p_lr": 0.05, "meta_every": 1, "block_size": 8, "rank": 2, **strategy._asdict(), **settings}
    optimizer = WarpAdam(model.named_parameters(), **chosen)
    for _ in range(12):
        x = torch.randn(16, SHAPE[1]) * torch.logspace(-1, 1, SHAPE[1])
        optimizer.zero_grad()
        (model(x) * torch.logspace(-1, 1, SHAPE[0])).square().mean().backward()
        optimizer.step()
    return Warp.of(optimizer)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_shuffled_p_fits_where_p_fits_and_keeps_every_singular_value(strategy: Strategy) -> None:
    warp = learned(strategy)
    shuffled = warp.shuffled(1)
    shuffled.optimizer(nn.Linear(SHAPE[1], SHAPE[0]).named_parameters())
    for name, source in warp.parameters.items():
        for key, tensor in source.tensors.items():
            other = shuffled.parameters[name].tensors[key]
            assert sorted(tensor.flatten().tolist()) == sorted(other.flatten().tolist())
            if tensor.ndim > 1:
                found, wanted = (
                    torch.linalg.svdvals(item.double()).flatten().sort().values for item in (other, tensor)
                )
                assert torch.allclose(found, wanted, atol=1e-9 * float(wanted.max()))


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s.learner == "hypergradient"], ids=str)
def test_a_shuffled_p_is_p_between_two_renumberings(strategy: Strategy) -> None:
    warp = learned(strategy, block_size=64)
    shuffled = warp.shuffled(1)
    (name, source), other = next(iter(warp.parameters.items())), shuffled.parameters["weight"]
    assert name == "weight"
    dense, mixed = (as_matrix(strategy, item.tensors) for item in (source, other))
    assert not torch.allclose(dense, mixed, atol=1e-4)
    assert torch.allclose(torch.linalg.svdvals(dense), torch.linalg.svdvals(mixed), atol=1e-4)
    assert torch.trace(dense).item() == pytest.approx(torch.trace(mixed).item(), abs=1e-4)
    if strategy.structure != "diagonal":
        found, wanted = (torch.linalg.eigvals(matrix).abs().sort().values for matrix in (dense, mixed))
        assert torch.allclose(found, wanted, atol=1e-4)


def as_matrix(strategy: Strategy, tensors: Any) -> Tensor:
    """Return P as the matrix that it is on all elements of the weight."""
    distortion = make_distortion(strategy.structure, SHAPE, rank=2, block_size=64, max_dim=512)
    columns = [
        distortion.apply(tensors, distortion.to_layout(unit.reshape(SHAPE))).reshape(-1)[: SHAPE[0] * SHAPE[1]]
        for unit in torch.eye(SHAPE[0] * SHAPE[1])
    ]
    return torch.stack(columns, 1)


def test_one_seed_shuffles_one_way() -> None:
    warp = learned(ROTATION)
    first, again, other = (warp.shuffled(seed).parameters["weight"].tensors["row_factor"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_axes_that_are_one_axis_are_renumbered_together() -> None:
    warp = learned(ROTATION)
    tensors, shuffled = (item.parameters["weight"].tensors for item in (warp, warp.shuffled(3)))
    order = torch.stack(
        [
            (shuffled["row_covariance"].diagonal() == value).nonzero()[0, 0]
            for value in tensors["row_covariance"].diagonal()
        ]
    )
    inverse = order.argsort()
    assert torch.equal(shuffled["row_covariance"], tensors["row_covariance"][inverse][:, inverse])
    assert torch.equal(shuffled["row_factor"], tensors["row_factor"][inverse][:, inverse])
    assert torch.equal(shuffled["log_scale"][: SHAPE[0]], tensors["log_scale"][: SHAPE[0]][inverse])


@pytest.mark.parametrize("settings", [{"max_dim": 2}, {"split": {"weight": 2}}], ids=["blocks", "split"])
def test_every_direction_keeps_its_learned_size(settings: dict[str, Any]) -> None:
    def sizes(warp: Warp) -> dict[str, list[tuple[list[float], float]]]:
        tensors, pairs = warp.parameters["weight"].tensors, {}
        for name in (name for name in tensors if name.endswith("log_scale")):
            factors = [tensors[name.replace("log_scale", side)] for side in ("row_factor", "column_factor")]
            directions = [sorted(row.tolist()) for factor in factors for row in factor.flatten(0, -2)]
            pairs[name] = sorted(zip(directions, tensors[name].tolist(), strict=True))
        return pairs

    warp = learned(ROTATION, **settings)
    assert sizes(warp.shuffled(1)) == sizes(warp) != {}
    assert len({size for pairs in sizes(warp).values() for _, size in pairs}) > 2
