# P beyond one run: learned over a family of tasks, taken from one optimizer, kept in a file, given to another. Uses
# WarpAdam from outside; nothing in the optimizer knows of this package.
"""Learn P across tasks, save it, carry it over."""

from __future__ import annotations

from warpadam.meta.artifact import load_warp, save_warp
from warpadam.meta.tasks import Loss, Task
from warpadam.meta.trainer import MetaConfig, MetaResult, MetaTrainer
from warpadam.meta.warp import Warp, WarpedParameter

__all__ = [
    "Loss",
    "MetaConfig",
    "MetaResult",
    "MetaTrainer",
    "Task",
    "Warp",
    "WarpedParameter",
    "load_warp",
    "save_warp",
]
