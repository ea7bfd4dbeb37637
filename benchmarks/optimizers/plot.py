"""Draw the learning curves: one panel for each task, one line for each arm. Needs no display."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from benchmarks.optimizers.arms import ARMS, WARPADAM
from benchmarks.optimizers.measures import median_curve
from benchmarks.optimizers.report import Curves

COLUMNS: Final = 3


def draw(curves: Curves, path: Path) -> None:
    """Plot the median validation loss over the steps, with a band from the lowest to the highest seed."""
    shown = {task: arms for task, arms in curves.items() if arms}
    if not shown:
        return
    rows = math.ceil(len(shown) / COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 3.6 * rows), layout="constrained")
    for position, (task, arms) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, COLUMNS, position + 1)
        for color, arm in enumerate(ARMS):
            if arm.name not in arms:
                continue
            median = median_curve(arms[arm.name])
            width = 2.2 if arm is WARPADAM else 1.2
            axes.plot(median.steps, median.losses, color=f"C{color}", linewidth=width, label=arm.title)
            whole = [curve.losses for curve in arms[arm.name] if len(curve.losses) == len(median.losses)]
            lowest = [min(losses) for losses in zip(*whole, strict=True)]
            highest = [max(losses) for losses in zip(*whole, strict=True)]
            axes.fill_between(median.steps, lowest, highest, color=f"C{color}", alpha=0.12, linewidth=0)
        axes.set(title=task, xlabel="step", ylabel="validation loss", yscale="log")
        if position == 0:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
