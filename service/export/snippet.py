"""The recommended optimizer as a line of Python to copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from service.optimizers import OPTIMIZERS
from service.planning.plan import JobPlan
from service.result.job_result import JobResult

USED_BY: Final = {"rank": "low_rank", "block_size": "full", "max_dim": "kronecker"}
"""Setting of WarpAdam -> the structure that uses it."""


def optimizer_lines(plan: JobPlan, result: JobResult) -> str | None:
    """Return the import and the call that make the recommended optimizer; None if a call is not enough."""
    entry = OPTIMIZERS[plan.arm(result.arm).optimizer]
    if entry.name not in ("warpadam", "adamw", "soap", "sgd"):
        return None
    module, _, name = entry.library.rpartition(".")
    params = "model.named_parameters()" if entry.has_p else "model.parameters()"
    settings = "".join(f"    {setting}={value!r},\n" for setting, value in _settings(entry.name, result.config).items())
    return f"from {module} import {name}\n\noptimizer = {name}(\n    {params},\n{settings})"


def _settings(optimizer: str, config: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    if optimizer == "sgd":  # jobs of earlier versions have a config without nesterov
        return {**settings, "nesterov": config["momentum"] > 0}
    structure = config.get("structure")
    return {name: value for name, value in settings.items() if USED_BY.get(name, structure) == structure}
