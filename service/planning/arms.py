# The arms of a job: which optimizer each stands for, what it tunes, and what part it plays in the comparison. Which
# spec asks for which is in plan.py, the torch classes in training/optimizers.py. Loads neither torch nor Optuna.
"""What an arm is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from search_spaces import (
    Choice,
    Scalar,
    SearchSpace,
    adamw_config,
    apply_overrides,
    get_preset,
    joined_betas,
    warpadam_config,
)

WARPADAM: Final = "warpadam"
"""Name of the arm that learns P, or with one arm for each structure, the beginning of their names."""

REFERENCE: Final = "adamw"
"""The baseline whose final loss may be the target of the others."""

MORE_STEPS: Final = "adamw_more_steps"
"""Name of the control that gets the seconds which P costs as more steps."""

SHUFFLED_P: Final = "shuffled_p"
"""Name of the control of a warm start: the same P in wrong coordinates."""


class Role(StrEnum):
    """What part an arm plays."""

    WARPADAM = "warpadam"
    BASELINE = "baseline"
    CONTROL = "control"


class Start(StrEnum):
    """What the runs of an arm start from."""

    IDENTITY = "identity"
    LEARNED = "learned"
    SHUFFLED = "shuffled"


CONFIGS: Final[Mapping[str, Callable[[Mapping[str, Scalar]], Mapping[str, Any]]]] = {
    "warpadam": lambda values: warpadam_config(values).to_dict(),
    "adamw": lambda values: adamw_config(values).to_dict(),
    "muon": dict,
    "soap": joined_betas,
    "sgd": dict,
    "random_p": lambda values: warpadam_config({"strategy": "kronecker/sandwich/frozen", **values}).to_dict(),
}
"""Optimizer -> from the values of its search space to its arguments, as plain JSON values."""

BASELINES: Final = ("adamw", "muon", "soap", "sgd")
"""The arms that WarpAdam may be compared with; each tunes the preset of its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPlan:
    """One arm.

    Attributes:
        name: Its name, unique within a job.
        space: What it tunes.
        optimizer: Name of the optimizer that it trains with, a key of ``CONFIGS``.
        role: What part it plays in the comparison.
        start: The P that its runs start from: I, that of an earlier job, or the latter in wrong coordinates.
    """

    name: str
    space: SearchSpace
    optimizer: str
    role: Role
    start: Start = Start.IDENTITY

    def config(self, values: Mapping[str, Scalar]) -> dict[str, Any]:
        """Return the optimizer configuration that an assignment of the space stands for, as plain JSON values."""
        return dict(CONFIGS[self.optimizer](values))


def warpadam_arms(space: SearchSpace, per_structure: bool) -> list[ArmPlan]:
    """Return the arms that learn P: one over the whole space, or one for each structure in it."""
    if not per_structure:
        return [ArmPlan(name=WARPADAM, space=space, optimizer="warpadam", role=Role.WARPADAM)]
    strategies = space["strategy"].domain
    assert isinstance(strategies, Choice), "strategies are a choice"
    structures = dict.fromkeys(str(strategy).split("/")[0] for strategy in strategies.values)
    return [
        ArmPlan(
            name=f"{WARPADAM}-{structure}",
            space=apply_overrides(space, {"structure": structure}),
            optimizer="warpadam",
            role=Role.WARPADAM,
        )
        for structure in structures
    ]


def warm_arms(arms: Sequence[ArmPlan]) -> list[ArmPlan]:
    """Return the arms that learn P as they start from a P, and their control, which starts from it shuffled.

    The control has the spectrum and the learned step sizes of P, and as many trials; what it lacks is what P knows
    about which input and which layer they belong to. P decides the structure, so there is one arm.
    """
    warm = [replace(arm, start=Start.LEARNED) for arm in arms]
    return [*warm, replace(warm[0], name=SHUFFLED_P, role=Role.CONTROL, start=Start.SHUFFLED)]


def baseline_arm(name: str) -> ArmPlan:
    """Return the arm of a baseline."""
    return ArmPlan(name=name, space=get_preset(name), optimizer=name, role=Role.BASELINE)


def control_arm(name: str) -> ArmPlan:
    """Return the arm of a control.

    ``diagonal_pre`` learns a P that Adam is nearly blind to. ``random_p`` has bases drawn at random in the place of
    learned ones: as both are orthogonal their norms are equal, and so is the cost of a step without learning.
    ``adamw_more_steps`` is AdamW with the steps that it could do in WarpAdam's seconds.
    """
    match name:
        case "diagonal_pre":
            space = apply_overrides(get_preset("paper"), {"structure": "diagonal"})
            return ArmPlan(name=name, space=space, optimizer="warpadam", role=Role.CONTROL)
        case "random_p":
            return ArmPlan(name=name, space=get_preset("adamw"), optimizer="random_p", role=Role.CONTROL)
        case _:
            return ArmPlan(name=MORE_STEPS, space=get_preset("adamw"), optimizer="adamw", role=Role.CONTROL)
