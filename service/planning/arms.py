"""The arms of a job: the optimizer of each, what it tunes, and its part in the comparison.

``plan.py`` says which spec asks for which arms. Loads neither torch nor Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pydantic import JsonValue

from search_spaces import Choice, Scalar, SearchSpace, apply_overrides, get_preset
from service.optimizers import OPTIMIZERS, baselines
from warpadam.config import Learner

WARPADAM: Final = "warpadam"
"""Name of the arm that learns P. With one arm for each structure, their names begin with it."""

REFERENCE: Final = "adamw"
"""The baseline whose final loss may be the target of the others."""

MORE_STEPS: Final = "adamw_more_steps"
"""Name of the control that spends the seconds which P costs on more steps."""

UNTUNED: Final = "adamw_default"
"""Name of the arm that nobody tunes: AdamW with PyTorch's own defaults."""

SHUFFLED_P: Final = "shuffled_p"
"""Name of the control of a warm start: the same P in wrong coordinates."""


class Role(StrEnum):
    """The part of an arm in the comparison."""

    WARPADAM = "warpadam"
    BASELINE = "baseline"
    CONTROL = "control"
    UNTUNED = "untuned"


class Start(StrEnum):
    """What the runs of an arm start from."""

    IDENTITY = "identity"
    LEARNED = "learned"
    SHUFFLED = "shuffled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPlan:
    """One arm.

    Attributes:
        name: Its name, unique within a job.
        space: What it tunes.
        optimizer: A key of ``OPTIMIZERS``.
        start: The P that its runs start from: I, the P of an earlier job, or that P in wrong coordinates.
    """

    name: str
    space: SearchSpace
    optimizer: str
    role: Role
    start: Start = Start.IDENTITY

    def config(self, values: Mapping[str, Scalar]) -> dict[str, JsonValue]:
        """Return the optimizer configuration that an assignment of the space stands for, as plain JSON values."""
        return dict(OPTIMIZERS[self.optimizer].config(values))

    def p_every(self, values: Mapping[str, Scalar]) -> int | None:
        """Return the steps between two updates of P with these values; None if the arm learns no P."""
        config = self.config(values)
        every = config.get("meta_every")
        return every if isinstance(every, int) and config.get("learner") != Learner.FROZEN else None


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
    """Return the arms that learn P, started from a P, and their control, which starts from the same P shuffled.

    The control has the spectrum and the learned step sizes of P and as many trials. It does not know which input and
    which layer they belong to. P decides the structure, so there is one arm.
    """
    warm = [replace(arm, start=Start.LEARNED) for arm in arms]
    return [*warm, replace(warm[0], name=SHUFFLED_P, role=Role.CONTROL, start=Start.SHUFFLED)]


def baseline_arm(name: str) -> ArmPlan:
    """Return the arm of a baseline."""
    return ArmPlan(name=name, space=baselines()[name], optimizer=name, role=Role.BASELINE)


def untuned_arm() -> ArmPlan:
    """Return the arm that shows what tuning is worth: AdamW as PyTorch ships it.

    Its space has one point. It is neither compared in a test nor recommended.
    """
    return ArmPlan(name=UNTUNED, space=SearchSpace(name=UNTUNED, parameters=()), optimizer="adamw", role=Role.UNTUNED)


def control_arm(name: str) -> ArmPlan:
    """Return the arm of a control.

    ``diagonal_pre`` learns a P that Adam is nearly blind to. ``random_p`` uses bases drawn at random instead of learned
    ones: both are orthogonal, so their norms and the cost of a step without learning are equal. ``adamw_more_steps``
    is AdamW with the steps that it could do in WarpAdam's seconds.
    """
    match name:
        case "diagonal_pre":
            space = apply_overrides(get_preset("paper"), {"structure": "diagonal"})
            return ArmPlan(name=name, space=space, optimizer="warpadam", role=Role.CONTROL)
        case "random_p":
            return ArmPlan(name=name, space=get_preset("adamw"), optimizer="random_p", role=Role.CONTROL)
        case _:
            return ArmPlan(name=MORE_STEPS, space=get_preset("adamw"), optimizer="adamw", role=Role.CONTROL)
