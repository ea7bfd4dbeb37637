"""WarpAdam: Adam that sees P g instead of the gradient g, where the matrix P is learned during training.

Every parameter tensor has its own P, which starts as the identity. Use :class:`WarpAdam` as any ``torch.optim``
optimizer; ``docs/warpadam.md`` explains its settings.

Torch is loaded only when a name that needs it is used (PEP 562). So ``import warpadam`` is cheap in a process that only
checks configurations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from warpadam.config import STRATEGIES, Learner, Placement, Strategy, Structure, WarpAdamConfig
from warpadam.errors import (
    CudaGraphError,
    InvalidConfigError,
    UnsupportedParameterError,
    WarpAdamError,
    WarpFileError,
    WarpMismatchError,
)

if TYPE_CHECKING:
    from warpadam.diagnostics import Diagnosis, TensorReport, diagnose
    from warpadam.groups import param_groups
    from warpadam.memory import MemoryEstimate, TensorMemory, estimate_memory
    from warpadam.meta import MetaConfig, MetaResult, MetaTrainer, Task, Warp, load_warp, save_warp
    from warpadam.optimizer import WarpAdam
    from warpadam.profiling import StepProfile, step_profile

    __version__: str

__all__ = [
    "STRATEGIES",
    "CudaGraphError",
    "Diagnosis",
    "InvalidConfigError",
    "Learner",
    "MemoryEstimate",
    "MetaConfig",
    "MetaResult",
    "MetaTrainer",
    "Placement",
    "StepProfile",
    "Strategy",
    "Structure",
    "Task",
    "TensorMemory",
    "TensorReport",
    "UnsupportedParameterError",
    "Warp",
    "WarpAdam",
    "WarpAdamConfig",
    "WarpAdamError",
    "WarpFileError",
    "WarpMismatchError",
    "diagnose",
    "estimate_memory",
    "load_warp",
    "param_groups",
    "save_warp",
    "step_profile",
]

_NEED_TORCH: Final = {
    "Diagnosis": "diagnostics",
    "MemoryEstimate": "memory",
    "MetaConfig": "meta",
    "MetaResult": "meta",
    "MetaTrainer": "meta",
    "StepProfile": "profiling",
    "Task": "meta",
    "TensorMemory": "memory",
    "TensorReport": "diagnostics",
    "Warp": "meta",
    "WarpAdam": "optimizer",
    "diagnose": "diagnostics",
    "estimate_memory": "memory",
    "load_warp": "meta",
    "param_groups": "groups",
    "save_warp": "meta",
    "step_profile": "profiling",
}
"""The module of each name that is loaded on first use."""


def __getattr__(name: str) -> object:
    if name in _NEED_TORCH:
        value: object = getattr(import_module(f"warpadam.{_NEED_TORCH[name]}"), name)
        return value
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NEED_TORCH, "__version__"})


def _version() -> str:
    """Return the version of the installed distribution; ``0+unknown`` if the source tree is used without one."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("warptune")
    except PackageNotFoundError:
        return "0+unknown"
