# Chooses the update rule of one parameter. Rules hold no tensors, so equal shapes and strategies get the same object
# from a cache: looking it up every step is cheap, and the optimizer keeps nothing that a checkpoint would miss.
"""Learners of P, one a file."""

from __future__ import annotations

from functools import lru_cache

from warpadam.config import Learner
from warpadam.learners.base import Settings, State, UpdateRule
from warpadam.learners.frozen import FrozenRule
from warpadam.learners.hypergradient import HypergradientRule
from warpadam.learners.rotation import RotationRule
from warpadam.learners.whitening import WhiteningRule
from warpadam.structures import KroneckerDistortion, make_distortion, make_kronecker

__all__ = [
    "FrozenRule",
    "HypergradientRule",
    "RotationRule",
    "Settings",
    "State",
    "UpdateRule",
    "WhiteningRule",
    "make_rule",
]


@lru_cache(maxsize=4096)
def make_rule(
    strategy: tuple[str, str, str], shape: tuple[int, ...], rank: int, block_size: int, max_dim: int
) -> UpdateRule:
    """Return the update rule of a parameter of ``shape``; where ``whitening`` has nothing to mix it is plain Adam.

    Args:
        strategy: Legal values of structure, placement and learner.
        shape: The parameter's shape.
        rank: See :class:`~warpadam.config.WarpAdamConfig`.
        block_size: See there.
        max_dim: See there.
    """
    structure, placement, learner = strategy
    if learner == Learner.ROTATION:
        return RotationRule(make_kronecker(shape, max_dim=max_dim))
    distortion = make_distortion(structure, shape, rank=rank, block_size=block_size, max_dim=max_dim)
    if learner == Learner.WHITENING and isinstance(distortion, KroneckerDistortion):
        return WhiteningRule(distortion)
    if learner == Learner.HYPERGRADIENT:
        return HypergradientRule(distortion, placement)
    return FrozenRule(distortion, placement)
