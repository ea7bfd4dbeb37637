# The names that users import. Torch is loaded only when a name that needs it is asked for (PEP 562), so that
# `import warpadam` is cheap in a process that only checks configurations.
"""WarpAdam: Adam fed with P g, where the distortion matrix P is learned by meta-gradients."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from warpadam.config import STRATEGIES, Learner, Placement, Strategy, Structure, WarpAdamConfig
from warpadam.errors import InvalidConfigError, UnsupportedParameterError, WarpAdamError

if TYPE_CHECKING:
    from warpadam.diagnostics import Diagnosis, TensorReport, diagnose
    from warpadam.groups import param_groups
    from warpadam.memory import MemoryEstimate, TensorMemory, estimate_memory
    from warpadam.optimizer import WarpAdam
    from warpadam.profiling import StepProfile, step_profile

__all__ = [
    "STRATEGIES",
    "Diagnosis",
    "InvalidConfigError",
    "Learner",
    "MemoryEstimate",
    "Placement",
    "StepProfile",
    "Strategy",
    "Structure",
    "TensorMemory",
    "TensorReport",
    "UnsupportedParameterError",
    "WarpAdam",
    "WarpAdamConfig",
    "WarpAdamError",
    "diagnose",
    "estimate_memory",
    "param_groups",
    "step_profile",
]

_NEED_TORCH: Final = {
    "Diagnosis": "diagnostics",
    "MemoryEstimate": "memory",
    "StepProfile": "profiling",
    "TensorMemory": "memory",
    "TensorReport": "diagnostics",
    "WarpAdam": "optimizer",
    "diagnose": "diagnostics",
    "estimate_memory": "memory",
    "param_groups": "groups",
    "step_profile": "profiling",
}
"""The module of each name that is loaded when it is asked for."""


def __getattr__(name: str) -> object:
    if name in _NEED_TORCH:
        value: object = getattr(import_module(f"warpadam.{_NEED_TORCH[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
