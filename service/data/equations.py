"""Draws points for the bundled differential equations.

For each point the data has the right-hand side of the equation, or the condition on the boundary, and the exact
solution. The left-hand sides of the equations are in ``training/networks.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

VISCOSITY: Final = 0.01 / math.pi
"""Of Burgers' equation. Source: Raissi, Perdikaris, Karniadakis 2019, section 3.1.1."""

ROWS: Final = {"train": 3000, "val": 1000, "test": 1000}
"""Points of each part."""

CONDITION_SHARE: Final = 5
"""One point in this many is on the boundary, where the solution itself is given."""

CONDITION_WEIGHT: Final = {"poisson_2d": 20.0, "burgers": 2.0}
"""Factor of a condition's error before it is squared. With one point in five on the boundary, the mean over the
conditions weighs 100 times the mean over the inside for Poisson, whose right-hand side is 40 times its solution, and as
much as the mean over the inside for Burgers."""

NODES: Final = 201
"""Nodes of the quadrature. With 4,001 the solution changes by less than 1e-14."""


def poisson_2d(points: Points) -> Points:
    """Return the solution of ``- u_xx - u_yy = f`` on the unit square that is 0 on its boundary, at points (n, 2)."""
    x, y = math.pi * points[:, 0], math.pi * points[:, 1]
    solution: Points = np.sin(x) * np.sin(y) + 0.5 * np.sin(2 * x) * np.sin(2 * y)
    return solution


def _poisson_source(points: Points) -> Points:
    """Return f."""
    x, y = math.pi * points[:, 0], math.pi * points[:, 1]
    source: Points = math.pi**2 * (2 * np.sin(x) * np.sin(y) + 4 * np.sin(2 * x) * np.sin(2 * y))
    return source


def burgers(points: Points) -> Points:
    """Return the solution of ``u_t + u u_x = nu u_xx`` on -1 <= x <= 1 with u(x, 0) = - sin(pi x), at points (x, t).

    It is the quotient of two integrals, by the transformation of Cole and Hopf, here by the trapezoidal rule.

    Source: Basdevant et al. 1986, equation 2.5.
    """
    x, t = points[:, :1], points[:, 1:]
    nodes = np.linspace(-12, 12, NODES)
    at = x - np.sqrt(4 * VISCOSITY * t) * nodes
    exponents = -np.cos(math.pi * at) / (2 * math.pi * VISCOSITY) - nodes**2
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    solution: Points = -(np.sin(math.pi * at) * weights).sum(1) / weights.sum(1)
    return solution


def _square(_inside: Points, edge: Points) -> None:
    """Move points to the four sides of the unit square."""
    side = np.arange(len(edge)) % 4
    edge[np.arange(len(edge)), side // 2] = side % 2


def _strip(inside: Points, edge: Points) -> None:
    """Move points (x, t) to -1 <= x <= 1 and 0 <= t <= 1; conditions are at t = 0 and as many at x = -1 and 1."""
    for points in (inside, edge):
        points[:, 0] = 2 * points[:, 0] - 1
    place = np.arange(len(edge)) % 4
    edge[place < 2, 1] = 0.0
    edge[place == 2, 0], edge[place == 3, 0] = -1.0, 1.0


Move = Callable[[Points, Points], None]
EQUATIONS: Final[Mapping[str, tuple[Move, Callable[[Points], Points], Callable[[Points], Points]]]] = {
    "poisson_2d": (_square, _poisson_source, poisson_2d),
    "burgers": (_strip, lambda points: np.zeros(len(points)), burgers),
}
"""Name -> where points of the unit square are moved to, the right-hand side inside, the solution."""


def collocation(name: str, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return the arrays of a split; each part has its own points.

    A row of ``x`` is a point and the weight of its condition, 0 inside. A row of ``y`` is the right-hand side of the
    equation or of the weighted condition, and the solution at the point.
    """
    move, source, solution = EQUATIONS[name]
    draw, weight = np.random.default_rng(seed), CONDITION_WEIGHT[name]
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for part, rows in ROWS.items():
        conditions = rows // CONDITION_SHARE
        inside, edge = draw.random((rows - conditions, 2)), draw.random((conditions, 2))
        move(inside, edge)
        points, exact = np.concatenate([inside, edge]), np.concatenate([solution(inside), solution(edge)])
        weights = np.repeat([0.0, weight], [len(inside), len(edge)])
        asked = np.where(weights > 0, weight * exact, np.concatenate([source(inside), source(edge)]))
        arrays[f"x_{part}"] = np.column_stack([points, weights]).astype(np.float32)
        arrays[f"y_{part}"] = np.column_stack([asked, exact]).astype(np.float32)
    return arrays
