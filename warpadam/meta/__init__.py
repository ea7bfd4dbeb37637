"""P beyond one run: learn it over a family of tasks, save it to a file, give it to another optimizer.

This package uses WarpAdam from outside; the optimizer does not depend on it.
"""

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
