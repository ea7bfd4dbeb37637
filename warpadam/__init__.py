# The names that users import. Torch is loaded only when a name that needs it is asked for (PEP 562), so that
# `import warpadam` is cheap in a process that only checks configurations.
"""WarpAdam: Adam fed with P g, where the distortion matrix P is learned by meta-gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warpadam.config import STRATEGIES, Learner, Placement, Strategy, Structure, WarpAdamConfig
from warpadam.errors import InvalidConfigError, UnsupportedParameterError, WarpAdamError

if TYPE_CHECKING:
    from warpadam.optimizer import WarpAdam

__all__ = [
    "STRATEGIES",
    "InvalidConfigError",
    "Learner",
    "Placement",
    "Strategy",
    "Structure",
    "UnsupportedParameterError",
    "WarpAdam",
    "WarpAdamConfig",
    "WarpAdamError",
]


def __getattr__(name: str) -> object:
    if name == "WarpAdam":
        from warpadam.optimizer import WarpAdam

        return WarpAdam
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
