"""The learners of P, one in each file, and the choice of structure and rule for one parameter.

Neither a structure nor a rule holds tensors, so equal parameters get equal ones, and a checkpoint needs only the state.
"""

from __future__ import annotations

from warpadam.config import Learner, Placement
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
    "can_continue",
    "choose_rule",
]


def choose_rule(
    strategy: tuple[str, str, str], shape: tuple[int, ...], *, rank: int, block_size: int, max_dim: int
) -> tuple[UpdateRule, Distortion]:
    """Return the update rule of a parameter of ``shape``, and the structure of its P.

    Vectors are stepped by plain Adam under ``whitening``: an update of fixed size would never let a single bias settle.
    Under ``rotation`` they are stepped by Adam with a learned scale.

    Args:
        strategy: Legal values of structure, placement and learner.
        shape: The parameter's shape.
        rank: See :class:`~warpadam.WarpAdamConfig`, as for the next two.
        block_size: Most elements of a block of ``full``.
        max_dim: Longest axis that ``kronecker`` mixes as a whole.
    """
    structure, placement, learner = strategy
    distortion = make_distortion(structure, shape, rank=rank, block_size=block_size, max_dim=max_dim)
    if learner == Learner.ROTATION:
        return RotationRule(), distortion if distortion.sides else make_kronecker(shape, max_dim=max_dim)
    if learner == Learner.WHITENING and distortion.sides and len(shape) > 1:
        return WhiteningRule(), distortion
    return HypergradientRule(placement) if learner == Learner.HYPERGRADIENT else FrozenRule(placement), distortion


def can_continue(old: tuple[UpdateRule, Distortion], new: tuple[UpdateRule, Distortion]) -> bool:
    """Tell whether the state that one rule and structure made still means the same under others.

    ``hypergradient`` may stop and start learning, and a rotation may stop: its moments are those of its fixed basis.

    Args:
        old: What made the state.
        new: What would step it.
    """
    (old_rule, old_distortion), (rule, distortion) = old, new
    if rule == old_rule:
        return distortion == old_distortion
    if isinstance(rule, FrozenRule) and isinstance(old_rule, RotationRule):
        same_sides = (distortion.layout, distortion.sides) == (old_distortion.layout, old_distortion.sides)
        return rule.placement == Placement.SANDWICH and same_sides
    plain = (FrozenRule, HypergradientRule)
    return (
        isinstance(rule, plain)
        and isinstance(old_rule, plain)
        and rule.placement == old_rule.placement
        and distortion == old_distortion
    )
