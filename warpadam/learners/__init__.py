"""The learners of P, one in each file, and the choice of structure and rule for one parameter.

Neither a structure nor a rule holds tensors, so equal parameters get equal ones, and a checkpoint needs only the state.
"""

from __future__ import annotations

from warpadam.config import Learner
from warpadam.learners.base import Part, State, StepSettings, UpdateRule
from warpadam.learners.frozen import FrozenRule
from warpadam.learners.hypergradient import HypergradientRule
from warpadam.learners.rotation import RotationRule
from warpadam.learners.whitening import WhiteningRule
from warpadam.structures import Distortion, make_distortion, make_kronecker

__all__ = [
    "FrozenRule",
    "HypergradientRule",
    "Part",
    "RotationRule",
    "State",
    "StepSettings",
    "UpdateRule",
    "WhiteningRule",
    "choose_rule",
]


def choose_rule(
    strategy: tuple[str, str, str], shape: tuple[int, ...], *, rank: int, block_size: int, max_dim: int
) -> tuple[UpdateRule, Distortion]:
    """Return the update rule of a parameter of ``shape``, and the structure of its P.

    Vectors, and matrices with no axis to mix, are stepped by plain Adam under ``whitening``: an update of fixed size
    would never let a single bias settle. Under ``rotation`` they are stepped by Adam with a learned scale.

    Args:
        strategy: Legal values of structure, placement and learner.
        shape: The parameter's shape.
        rank: See :class:`~warpadam.WarpAdamConfig`, as for the next two.
        block_size: Most elements of a block of ``full``.
        max_dim: Longest axis that ``kronecker`` mixes.
    """
    structure, placement, learner = strategy
    distortion = make_distortion(structure, shape, rank=rank, block_size=block_size, max_dim=max_dim)
    if learner == Learner.ROTATION:
        return RotationRule(), distortion if distortion.sides else make_kronecker(shape, max_dim=max_dim)
    if learner == Learner.WHITENING and distortion.sides and len(shape) > 1:
        return WhiteningRule(), distortion
    return HypergradientRule(placement) if learner == Learner.HYPERGRADIENT else FrozenRule(placement), distortion
