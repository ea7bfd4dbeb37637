"""Draws a forest plot as text: one row for each comparison, with the bands of what luck does and what is too small."""

from __future__ import annotations

import textwrap
from typing import Final, NamedTuple

from service.result.effects import axis_end, effects, percent
from service.result.job_result import JobResult

MOST_COLUMNS: Final = 80
MOST_LABEL: Final = 18
FIGURE: Final = 12
"""Columns of the improvement at the end of a row."""


class Marks(NamedTuple):
    """The characters of a plot."""

    mean: str
    interval: str
    zero: str
    small: str
    luck: str


UNICODE: Final = Marks("●", "━", "│", "▒", "░")
ASCII: Final = Marks("o", "=", "|", ":", ".")


def draw_forest(result: JobResult, width: int, *, ascii_only: bool = False) -> list[str]:
    """Return the lines of the plot, at most ``width`` and 80 columns each; none if there is nothing to draw.

    Args:
        result: The result of a job.
        width: Columns of the terminal.
        ascii_only: Whether its encoding has no other characters.
    """
    rows, marks, against = effects(result), ASCII if ascii_only else UNICODE, f"against {result.baseline}"
    if not rows or result.statistics is None:
        return []
    label = min(MOST_LABEL, max(len(text) for text in (against, *(row.label for row in rows))))
    half = (min(width, MOST_COLUMNS) - label - FIGURE - 4) // 2
    end, small = axis_end(result), result.statistics.min_effect
    worse, better = f"worse -{percent(end)} <", f"> +{percent(end)} better"
    if half <= len(better):
        return []

    def column(share: float) -> int:
        return half + round(max(-1.0, min(1.0, share / end)) * half)

    lines = [f"{against[:label]:<{label}}  {worse:<{half}}0{better:>{half}}"]
    for row in rows:
        bands = [] if row.luck is None else [(-row.luck, row.luck, marks.luck)]
        bands += [(-small, small, marks.small), (row.low, row.high, marks.interval)]
        cells = [" "] * (2 * half + 1)
        for low, high, mark in (*bands, (0.0, 0.0, marks.zero), (row.mean, row.mean, marks.mean)):
            first, last = column(low), column(high)
            cells[first : last + 1] = mark * (last + 1 - first)
        figure = f"{'+' if row.mean > 0 else ''}{percent(row.mean)}"
        lines.append(f"{row.label[:label]:<{label}}  {''.join(cells)} {figure:>{FIGURE}}")
    legend = [f"{marks.mean} mean  {marks.interval} 95 % interval"]
    if column(small) > half:
        legend.append(f"{marks.small} under {percent(small)}: too small")
    if any(row.luck is not None for row in rows):
        legend.append(f"{marks.luck} luck of two equal searches")
    return [*lines, *textwrap.wrap("  ".join(legend), min(width, MOST_COLUMNS))]
