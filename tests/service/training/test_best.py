"""The best point of a curve, and the weights there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from service.training.best import BestWeights, Cost, best_index, is_out_of_patience, smoothed
from tests.service.user_code import models


def by_loss(losses: list[float]) -> list[Cost]:
    return [(loss, loss) for loss in losses]


def test_a_point_counts_with_two_neighbours_on_either_side() -> None:
    assert smoothed([5.0]) == [5.0]
    assert smoothed([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 2.5, 3.0, 3.5, 4.0]


def test_one_lucky_point_is_not_the_best_one() -> None:
    lucky = [2.0, 2.0, 0.1, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert best_index(by_loss(lucky)) == 7


def test_the_first_of_equal_points_is_the_best_one() -> None:
    assert best_index(by_loss([1.0] * 9)) == 0


def test_of_points_with_an_equal_score_the_one_with_the_lowest_loss_is_the_best_one() -> None:
    errors = [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    losses = [0.9, 0.8, 0.7, 0.6, 0.3, 0.3, 0.3, 0.6, 0.7]
    assert best_index(list(zip(errors, losses, strict=True))) == 5


@pytest.mark.parametrize("error", [0.02, 1 - 0.98, 1 / 3, 7 / 30])
def test_rounding_does_not_decide_between_points_of_an_equal_score(error: float) -> None:
    """The mean of three equal numbers may differ from that of five in the last bit."""
    losses = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert best_index([(error, loss) for loss in losses]) == 8
    assert best_index([(error, loss) for loss in reversed(losses)]) == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("points", [1, 2, 3, 4, 5, 17])
def test_the_weights_kept_are_those_of_the_best_index(seed: int, points: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(2, 1)
    best, weights = BestWeights(model), []
    scores = torch.randint(3, (points,), generator=generator).tolist()  # many are equal
    costs = list(zip(scores, torch.rand(points, generator=generator).tolist(), strict=True))
    for cost in costs:
        with torch.no_grad():
            model.weight.copy_(torch.rand(1, 2, generator=generator))
        weights.append(model.weight.clone())
        best.add(cost)
    best.restore()
    assert torch.equal(model.weight, weights[best_index(costs)])


def test_a_copy_that_is_restored_half_way_keeps_the_same_weights() -> None:
    costs = by_loss(torch.rand(12, generator=torch.Generator().manual_seed(3)).tolist())
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


def test_what_a_module_keeps_besides_tensors_is_that_of_the_best_point() -> None:
    model = models.Counting(1, 1)
    best = BestWeights(model)
    costs = by_loss([9.0, 5.0, 1.0, 1.0, 1.0, 5.0, 9.0])
    for cost in costs:
        model(torch.ones(1, 1))
        best.add(cost)
    best.restore()
    assert model.counts == {"batches": best_index(costs) + 1}


def test_patience_is_counted_in_steps_from_the_best_point() -> None:
    costs = by_loss([9.0, 5.0, 1.0, 1.0, 1.0, 5.0, 9.0, 9.0])
    steps = [10, 20, 30, 40, 50, 60, 70, 80]
    assert not is_out_of_patience(None, steps, costs)
    assert is_out_of_patience(40, steps, costs)
    assert not is_out_of_patience(41, steps, costs)
