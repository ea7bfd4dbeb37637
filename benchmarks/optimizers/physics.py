"""Two tasks with generated data: a PDE solved by a physics-informed network, and the fit of a wavy function.

The exact solution is known for both, so the validation loss is the true error.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.optimizers.tabular import Split, mlp, supervised
from benchmarks.optimizers.training import GradientTask, Problem

INTERIOR: Final = 128
"""Points of a batch inside the square, where the equation must hold."""

BOUNDARY: Final = 64
"""Points of a batch on the boundary, a quarter on each side."""

BOUNDARY_WEIGHT: Final = 100.0
"""Weight of the boundary loss. The squared residual is much larger: its source is 20 to 50 times the solution."""


def solution(points: Tensor) -> Tensor:
    """Return the exact solution of the Poisson problem at points (n, 2)."""
    x, y = math.pi * points[:, 0], math.pi * points[:, 1]
    return (x.sin() * y.sin()) + 0.5 * (2 * x).sin() * (2 * y).sin()


def source(points: Tensor) -> Tensor:
    """Return the right-hand side of the equation: minus the Laplacian of the solution."""
    x, y = math.pi * points[:, 0], math.pi * points[:, 1]
    return math.pi**2 * (2 * x.sin() * y.sin() + 4 * (2 * x).sin() * (2 * y).sin())


def laplacian(model: nn.Module, points: Tensor) -> Tensor:
    """Return the Laplacian of the model's output at points (n, 2), by differentiating twice."""
    points = points.requires_grad_()
    (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
    bends = [torch.autograd.grad(slope[:, axis].sum(), points, create_graph=True)[0][:, axis] for axis in range(2)]
    return bends[0] + bends[1]


def _poisson_pinn(seed: int) -> Problem:
    model = mlp((2, 32, 32, 32, 1), nn.Tanh)
    draw = torch.Generator().manual_seed(seed)
    line = torch.linspace(0, 1, 33)
    grid = torch.cartesian_prod(line, line)
    exact = solution(grid)

    def batch_loss() -> Tensor:
        inside = torch.rand(INTERIOR, 2, generator=draw)
        edge = torch.rand(BOUNDARY, 2, generator=draw)
        side = torch.arange(BOUNDARY) % 4
        edge[torch.arange(BOUNDARY), side // 2] = (side % 2).float()
        residual = laplacian(model, inside) + source(inside)
        edge_loss: Tensor = model(edge).square().mean()
        return residual.square().mean() + BOUNDARY_WEIGHT * edge_loss

    def validation_loss() -> float:
        error: Tensor = model(grid).squeeze(1) - exact
        return (error.square().sum() / exact.square().sum()).item()

    return Problem(model, batch_loss, validation_loss)


def wavy(points: Tensor) -> Tensor:
    """Return sin(6x) cos(4y) + 0.3 sin(12xy) at points (n, 2), as a column."""
    x, y = points[:, :1], points[:, 1:]
    return (6 * x).sin() * (4 * y).cos() + 0.3 * (12 * x * y).sin()


@lru_cache
def wavy_points() -> Split:
    """Return 2,048 training and 2,048 validation points in the square [-1, 1]^2."""
    x, x_val = torch.rand(2, 2048, 2, generator=torch.Generator().manual_seed(0)).mul(2).sub(1)
    return Split(x, wavy(x), x_val, wavy(x_val))


def _function_fit(seed: int) -> Problem:
    return supervised(mlp((2, 48, 48, 48, 1), nn.Tanh), wavy_points(), functional.mse_loss, 256, seed)


TASKS: Final = (
    GradientTask(name="poisson_pinn", version="1", steps=400, cost=3.0, problem=_poisson_pinn),
    GradientTask(name="function_fit", version="1", steps=400, cost=2.0, problem=_function_fit),
)
