# The names that users import. Torch is loaded only when a name that needs it is asked for (PEP 562), so that
# `import warpadam` is cheap in a process that only checks configurations.
"""WarpAdam: Adam fed with P g, where the distortion matrix P is learned by meta-gradients."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from warpadam.config import STRATEGIES, Learner, Placement, Strategy, Structure, WarpAdamConfig
from warpadam.errors import (
    InvalidConfigError,
    UnsupportedParameterError,
    WarpAdamError,
    WarpFileError,
    WarpMismatchError,
)

if TYPE_CHECKING:
    from warpadam.meta import MetaConfig, MetaResult, MetaTrainer, Task, Warp, load_warp, save_warp
    from warpadam.optimizer import WarpAdam

__all__ = [
    "STRATEGIES",
    "InvalidConfigError",
    "Learner",
    "MetaConfig",
    "MetaResult",
    "MetaTrainer",
    "Placement",
    "Strategy",
    "Structure",
    "Task",
    "UnsupportedParameterError",
    "Warp",
    "WarpAdam",
    "WarpAdamConfig",
    "WarpAdamError",
    "WarpFileError",
    "WarpMismatchError",
    "load_warp",
    "save_warp",
]

_NEED_TORCH = {"WarpAdam": "warpadam.optimizer"} | dict.fromkeys(
    ("MetaConfig", "MetaResult", "MetaTrainer", "Task", "Warp", "load_warp", "save_warp"), "warpadam.meta"
)


def __getattr__(name: str) -> object:
    if name in _NEED_TORCH:
        return getattr(import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
