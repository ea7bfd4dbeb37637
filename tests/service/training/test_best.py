"""The best point of a curve, and the weights there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from service.training.best import BestWeights, best_index, is_out_of_patience, smoothed


def test_a_point_counts_with_two_neighbours_on_either_side() -> None:
    assert smoothed([5.0]) == [5.0]
    assert smoothed([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 2.5, 3.0, 3.5, 4.0]


def test_one_lucky_point_is_not_the_best_one() -> None:
    lucky = [2.0, 2.0, 0.1, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert best_index(lucky) == 7


def test_the_first_of_equal_points_is_the_best_one() -> None:
    assert best_index([1.0] * 9) == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("points", [1, 2, 3, 4, 5, 17])
def test_the_weights_kept_are_those_of_the_best_index(seed: int, points: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(2, 1)
    best, costs, weights = BestWeights(model), torch.rand(points, generator=generator).tolist(), []
    for cost in costs:
        with torch.no_grad():
            model.weight.copy_(torch.rand(1, 2, generator=generator))
        weights.append(model.weight.clone())
        best.add(cost)
    best.restore()
    assert torch.equal(model.weight, weights[best_index(costs)])


def test_a_copy_that_is_restored_half_way_keeps_the_same_weights() -> None:
    costs = torch.rand(12, generator=torch.Generator().manual_seed(3)).tolist()
    model = nn.Linear(1, 1)
    best = BestWeights(model)
    for index, cost in enumerate(costs):
        with torch.no_grad():
            model.weight.fill_(index)
        best.add(cost)
        saved = copy.deepcopy(best.state_dict())
        best = BestWeights(model)
        best.load_state_dict(saved)
    best.restore()
    assert model.weight.item() == best_index(costs)


def test_patience_is_counted_in_steps_from_the_best_point() -> None:
    costs = [9.0, 5.0, 1.0, 1.0, 1.0, 5.0, 9.0, 9.0]
    steps = [10, 20, 30, 40, 50, 60, 70, 80]
    assert not is_out_of_patience(None, steps, costs)
    assert is_out_of_patience(40, steps, costs)
    assert not is_out_of_patience(41, steps, costs)
