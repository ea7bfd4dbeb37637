# Chooses how one parameter is stepped: the structure of its P, and the rule. Both hold no tensors, so equal parameters
# get equal ones, and the optimizer keeps nothing that a checkpoint would miss.
"""Learners of P, one a file."""

from __future__ import annotations

from warpadam.config import Learner
from warpadam.learners.base import Part, Settings, State, UpdateRule
from warpadam.learners.frozen import FrozenRule
from warpadam.learners.hypergradient import HypergradientRule
from warpadam.learners.rotation import RotationRule
from warpadam.learners.whitening import WhiteningRule
from warpadam.structures import Distortion, SidedDistortion, make_distortion, make_kronecker

__all__ = [
    "FrozenRule",
    "HypergradientRule",
    "Part",
    "RotationRule",
    "Settings",
    "State",
    "UpdateRule",
    "WhiteningRule",
    "choose_rule",
]


def choose_rule(
    strategy: tuple[str, str, str], shape: tuple[int, ...], *, rank: int, block_size: int, max_dim: int
) -> tuple[UpdateRule, Distortion]:
    """Return the update rule of a parameter of ``shape`` and the structure of its P.

    Vectors, and matrices with nothing to mix, are stepped by plain Adam under ``whitening``: an update of fixed size
    would make a lone bias jump for ever. Under ``rotation`` such matrices are stepped by Adam with a scale.

    Args:
        strategy: Legal values of structure, placement and learner.
        shape: The parameter's shape.
        rank: See :class:`~warpadam.config.WarpAdamConfig`.
        block_size: See there.
        max_dim: See there.
    """
    structure, placement, learner = strategy
    distortion = make_distortion(structure, shape, rank=rank, block_size=block_size, max_dim=max_dim)
    if learner == Learner.ROTATION:
        sided = isinstance(distortion, SidedDistortion)
        return RotationRule(), distortion if sided else make_kronecker(shape, max_dim=max_dim)
    if learner == Learner.WHITENING and isinstance(distortion, SidedDistortion) and len(shape) > 1:
        return WhiteningRule(), distortion
    return HypergradientRule(placement) if learner == Learner.HYPERGRADIENT else FrozenRule(placement), distortion
