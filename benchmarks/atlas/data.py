"""The data of the scenarios, as functions that a spec names: made data, and public tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from benchmarks.search.tables import TABLES

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any] | None, str]

TEACHER_WIDTH = 16
"""Hidden units of the network that makes the targets."""

CONDITION = 100.0
"""How badly conditioned its inputs are unless a scenario says otherwise."""

STEEPNESS = 2.0
"""Standard deviation of what enters its hidden units: where tanh is no longer straight."""


def teacher(
    seed: int,
    *,
    rows: int = 2000,
    inputs: int = 32,
    condition: float = CONDITION,
    noise: float = 0.1,
    turn: float = 0.0,
    classes: int = 0,
) -> Arrays:
    """Return rows whose target a small random network computes from hidden causes.

    The inputs are the causes, stretched along random orthogonal directions. Scaling the columns does not undo that.

    Args:
        seed: Seed of the rows. The network and the directions are always the same.
        rows: Number of rows.
        inputs: Number of input columns, and of causes.
        condition: Largest stretch divided by the smallest: 1 is round, 1,000 badly conditioned.
        noise: Standard deviation of the noise, as a share of that of the target.
        turn: Degrees by which the network is turned into another random one: 0 is the same task, 90 an unrelated one.
        classes: Number of classes; 0 is a regression.
    """
    fixed = np.random.default_rng(0)
    directions, _ = np.linalg.qr(fixed.standard_normal((inputs, inputs)))
    first, other = STEEPNESS / np.sqrt(inputs) * fixed.standard_normal((2, inputs, TEACHER_WIDTH))
    angle = np.deg2rad(turn)
    hidden = np.cos(angle) * first + np.sin(angle) * other
    last = fixed.standard_normal((TEACHER_WIDTH, max(classes, 1)))

    drawn = np.random.default_rng(1 + seed)
    causes = drawn.standard_normal((rows, inputs))
    outputs = np.tanh(causes @ hidden) @ last
    outputs += noise * outputs.std(axis=0) * drawn.standard_normal(outputs.shape)
    x = causes * np.geomspace(1.0, 1.0 / condition, inputs) @ directions.T
    if classes:
        return x, outputs.argmax(axis=1), "classification"
    return x, outputs[:, 0], "regression"


def public_table(seed: int, *, name: str, rows: int | None = None) -> Arrays:
    """Return a public table of the search benchmark, or a random sample of its rows."""
    table = next(part[name] for part in TABLES.values() if name in part)()
    drawn = np.random.default_rng(seed).permutation(len(table.x))[:rows]
    return table.x[drawn], table.y[drawn], "classification" if table.classes else "regression"


def noisy_digits(seed: int, *, flipped: float = 0.0, images: bool = True) -> Arrays:
    """Return the handwritten digits, with a share of the labels replaced by random ones."""
    x, y = load_digits(return_X_y=True)
    drawn = np.random.default_rng(seed)
    wrong = drawn.random(len(y)) < flipped
    y = np.where(wrong, drawn.integers(0, 10, len(y)), y)
    return (x.reshape(-1, 8, 8) if images else x), y, "classification"
