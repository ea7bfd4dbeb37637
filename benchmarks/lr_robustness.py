"""Measure how much the final loss depends on the lr, for WarpAdam and for AdamW.

Run::

    python -m benchmarks.lr_robustness [OUTPUT.json]

The lr takes five values that span a factor of 8. They lie around WarpAdam's default lr, and around the best lr found
for AdamW. All other settings stay fixed; WarpAdam keeps the defaults of its constructor. ``worst_over_best`` is the
highest final loss divided by the lowest. 1 means that the lr does not matter in this range. Each loss is the median of
three seeds. Results go to ``benchmarks/lr_robustness.json`` unless you name another file.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.optimizers.arms import ADAMW, WARPADAM, Arm
from benchmarks.optimizers.tasks import TASKS
from warpadam import WarpAdamConfig

FACTORS = tuple(8.0**power for power in (-0.5, -0.25, 0.0, 0.25, 0.5))
SEEDS = (200, 201, 202)
TASK_NAMES = ("function_fit", "digits_autoencoder")
ADAMW_VALUES: dict[str, Any] = {"lr": 0.03, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.0}


def default_values() -> dict[str, Any]:
    """Return WarpAdam's defaults as values of its search space."""
    config = WarpAdamConfig()
    numbers = {name: getattr(config, name) for name in ("lr", "p_lr", "meta_every", "p_decay", "cov_beta")}
    beta1, beta2 = config.betas
    return {**numbers, "strategy": str(config.strategy), "beta1": beta1, "beta2": beta2, "weight_decay": 0.0}


def losses(arm: Arm, values: Mapping[str, Any], task_name: str) -> dict[str, float]:
    """Return the median final loss for each lr."""
    task = next(task for task in TASKS if task.name == task_name)
    found = {}
    for factor in FACTORS:
        scaled = arm.scaled(values, factor)
        found[f"{scaled['lr']:.3g}"] = statistics.median(task.run(arm, scaled, seed).final for seed in SEEDS)
    return found


def main() -> None:
    """Measure both optimizers on every task, print the figures and save them."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name in TASK_NAMES:
        for arm, values in ((WARPADAM, default_values()), (ADAMW, ADAMW_VALUES)):
            found = losses(arm, values, name)
            spread = max(found.values()) / min(found.values())
            figures[f"{name}, {arm.title}"] = {"loss_by_lr": found, "worst_over_best": spread}
            print(f"{name:20} {arm.title:10} worst / best {spread:6.2f}  {found}", flush=True)
    result = {"figures": figures, "python": platform.python_version(), "torch": torch.__version__, "seeds": SEEDS}
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
