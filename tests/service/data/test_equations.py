# The points of a differential equation fit its network: what the equation asks for is what the exact solution gives.
from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from service.data.equations import CONDITION_WEIGHT, VISCOSITY, burgers
from service.spec.tasks import Task
from service.training.loop import train
from service.training.networks import Pinn
from service.training.tasks import loss_of, score_at_once, score_of
from tests.service.data.prepared import Split, split_of
from tests.service.training.test_checkpoint import EVERY_STEP_S, cut_short
from tests.service.training.test_loop import make_run, without_seconds

EQUATIONS = ("poisson_2d", "burgers")


class Exact(nn.Module):
    """The exact solution, differentiable, at points of float64."""

    def __init__(self, equation: str) -> None:
        super().__init__()
        self._equation = equation

    @override
    def forward(self, points: Tensor) -> Tensor:
        x, y = math.pi * points[:, :1], math.pi * points[:, 1:]
        if self._equation == "poisson_2d":
            return x.sin() * y.sin() + 0.5 * (2 * x).sin() * (2 * y).sin()
        nodes = torch.linspace(-12, 12, 401, dtype=torch.float64)
        at = x - math.pi * (4 * VISCOSITY * points[:, 1:]).sqrt() * nodes
        weights = torch.softmax(-at.cos() / (2 * math.pi * VISCOSITY) - nodes**2, dim=1)
        return -(at.sin() * weights).sum(1, keepdim=True)


def part(split: Split, name: str) -> tuple[Tensor, Tensor]:
    """Return the points after t = 0, where a square root has no slope, in float64."""
    x, y = (torch.from_numpy(split.arrays()[f"{axis}_{name}"]).double() for axis in "xy")
    later = x[:, 1] > 0
    return x[later], y[later]


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_the_exact_solution_has_no_residual_and_no_error(equation: str, name: str) -> None:
    x, y = part(split_of(equation, 3), name)
    output = Pinn(Exact(equation), equation)(x)
    assert torch.allclose(output[:, 1], y[:, 1], atol=3e-5)  # the points are of 32 bits, and Burgers' slope is 152
    assert loss_of(Task.PHYSICS)(output, y).item() < 1e-6 * max(1.0, y[:, 0].square().mean().item())
    assert score_at_once(score_of(Task.PHYSICS), output, y) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_another_function_has_both(equation: str) -> None:
    x, y = part(split_of(equation, 3), "val")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    output = Pinn(network, equation)(x)
    assert loss_of(Task.PHYSICS)(output, y).item() > 0.05
    error = (output[:, 1] - y[:, 1]).square().sum().sqrt() / y[:, 1].square().sum().sqrt()
    assert score_at_once(score_of(Task.PHYSICS), output, y) == pytest.approx(1 - error.item())


def test_burgers_solution_has_the_steepest_slope_of_the_literature() -> None:
    step, t = 1e-6, 1.6037 / math.pi  # Basdevant et al. 1986, table 1: 152.00516 at pi t = 1.6037
    after, before = burgers(np.array([[step, t], [-step, t]]))
    assert (before - after) / (2 * step) == pytest.approx(152.00516, abs=1e-4)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_parts_have_points_of_their_own_and_the_seed_decides_them(equation: str) -> None:
    split, again, other = (split_of(equation, seed) for seed in (0, 0, 1))
    points = np.concatenate([split.x_train, split.x_val, split.x_test])
    inside = points[points[:, 2] == 0]
    assert len(np.unique(inside, axis=0)) == len(inside) == 4000
    assert set(np.unique(points[:, 2])) == {0.0, CONDITION_WEIGHT[equation]}
    assert np.array_equal(split.x_val, again.x_val)
    assert not np.array_equal(split.x_val, other.x_val)


def test_conditions_are_on_the_boundary() -> None:
    for equation, low, sides in (("poisson_2d", 0.0, 4), ("burgers", -1.0, 3)):
        x, y = split_of(equation, 0).x_train, split_of(equation, 0).y_train
        edge, asked = x[x[:, 2] > 0], y[x[:, 2] > 0]
        on = [edge[:, 0] == low, edge[:, 0] == 1, edge[:, 1] == 0, edge[:, 1] == 1][:sides]
        assert np.any(on, axis=0).all()
        assert all(side.sum() >= 100 for side in on)
        assert np.allclose(asked[:, 0], CONDITION_WEIGHT[equation] * asked[:, 1], atol=1e-5)
        solution = -np.sin(np.pi * edge[:, 0]) if equation == "burgers" else np.zeros(len(edge))
        at_start = edge[:, 1] == 0
        assert np.allclose(asked[at_start, 1], solution[at_start], atol=1e-6)
        assert np.allclose(asked[~at_start, 1], 0, atol=1e-6)


def test_a_network_is_evaluated_where_gradients_are_off() -> None:
    x, y = part(split_of("poisson_2d", 0), "val")
    model = Pinn(Exact("poisson_2d"), "poisson_2d")
    with torch.no_grad():
        output = model(x)
    assert not output.requires_grad
    assert torch.equal(output, model(x).detach())
    assert y.shape == output.shape


@pytest.mark.parametrize("equation", EQUATIONS)
def test_a_run_cut_short_ends_like_an_uninterrupted_one(tmp_path: Path, equation: str) -> None:
    run = replace(make_run(tmp_path, equation), steps=12, checkpoint_every_s=EVERY_STEP_S)
    whole = without_seconds(list(train(run)))
    cut = replace(run, checkpoint_url=f"file://{tmp_path}/checkpoints")
    cut_short(cut, 5)
    assert without_seconds(list(train(cut))) == whole
