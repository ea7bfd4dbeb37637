"""Make the report from recorded runs: a dictionary for JSON, tables in Markdown, and the file.

``measures.py`` computes the figures; ``plot.py`` draws the picture.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.optimizers.arms import ADAMW, ARMS, WARPADAM, Arm
from benchmarks.optimizers.measures import final_loss, geometric_mean, judge, lr_spread, median_curve, to_reach
from benchmarks.optimizers.protocol import Budget, MissingRunError, Outcome, Unit
from benchmarks.optimizers.training import Curve, Task

Report = dict[str, Any]
Curves = Mapping[str, Mapping[str, Sequence[Curve]]]
"""Curves of the confirmation runs, by task and arm."""

LIBRARIES: Final = ("torch", "optuna", "pytorch-optimizer", "scikit-learn", "scipy", "numpy")

RATIOS: Final = {
    "to_adamw": "final loss / AdamW's",
    "to_best_peer": "final loss / best peer's",
    "steps_to_adamw": "steps to AdamW's final loss / AdamW's steps",
    "seconds_to_adamw": "seconds to AdamW's final loss / AdamW's seconds",
    "lr_spread": "worst / best final loss when the lr varies by a factor of 8",
}
"""Ratios that are averaged over the tasks, and what they mean."""


def make_report(tasks: Sequence[Task], arms: Sequence[Arm], budget: Budget, folder: Path) -> tuple[Report, Curves]:
    """Return the report and the confirmation curves of all tasks and arms that are completely recorded."""
    missing, stale = [], 0
    outcomes: dict[str, dict[str, Outcome]] = {task.name: {} for task in tasks}
    for task in tasks:
        for arm in arms:
            unit = Unit(task, arm, budget, folder)
            stale += unit.records.stale
            try:
                outcomes[task.name][arm.name] = unit.outcome(run=False)
            except (MissingRunError, ArithmeticError) as error:
                missing.append(str(error))
    rows = {name: _rows(found) for name, found in outcomes.items() if found}
    report = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread a run",
        "budget": asdict(budget),
        "missing": missing,
        "stale_runs": stale,
        "judgements": {name: judgement for name, found in outcomes.items() if (judgement := _judge(found))},
        "geometric_means": _means(rows),
        "tasks": rows,
    }
    return report, {name: {arm: out.confirmed for arm, out in found.items()} for name, found in outcomes.items()}


def _rows(outcomes: Mapping[str, Outcome]) -> dict[str, Report]:
    peers = [final_loss(out.confirmed) for name, out in outcomes.items() if name != WARPADAM.name]
    adamw = median_curve(outcomes[ADAMW.name].confirmed) if ADAMW.name in outcomes else None
    return {name: _row(out, min(peers, default=None), adamw) for name, out in outcomes.items()}


def _row(outcome: Outcome, best_peer: float | None, adamw: Curve | None) -> Report:
    final = final_loss(outcome.confirmed)
    finals = [curve.final for curve in outcome.confirmed]
    row: Report = {"final": final, "lowest": min(finals), "highest": max(finals)}
    if best_peer is not None:
        row["to_best_peer"] = final / best_peer
    if adamw is not None:
        steps, seconds = to_reach(median_curve(outcome.confirmed), adamw.final, adamw)
        row |= {"to_adamw": final / adamw.final, "steps_to_adamw": steps, "seconds_to_adamw": seconds}
    learned = [curve.learning for curve in outcome.confirmed if curve.learning is not None]
    if learned:
        median_seconds = statistics.median(learning.seconds for learning in learned)
        row["learning"] = asdict(replace(learned[0], seconds=median_seconds))
    if len(outcome.swept) > 1:
        row["lr_spread"] = lr_spread(outcome.swept)
    return row | {
        "seconds_per_run": median_curve(outcome.confirmed).seconds[-1],
        "diverged_trials": sum(not math.isfinite(loss) for _, loss in outcome.trials),
        "best": dict(outcome.best),
        "trials": [{"loss": loss, **values} for values, loss in outcome.trials],
        "sweep": {f"{factor:.3g}": curve.final for factor, curve in sorted(outcome.swept.items())},
        "steps": list(outcome.confirmed[0].steps),
        "confirmed": [{"losses": list(c.losses), "seconds": c.seconds[-1]} for c in outcome.confirmed],
    }


def _judge(outcomes: Mapping[str, Outcome]) -> Report | None:
    peers = {name: out.confirmed for name, out in outcomes.items() if name != WARPADAM.name}
    if WARPADAM.name not in outcomes or not peers:
        return None
    return asdict(judge(outcomes[WARPADAM.name].confirmed, peers))


def _means(rows: Mapping[str, Mapping[str, Report]]) -> dict[str, dict[str, float]]:
    """Return the geometric mean of every ratio by arm, over the tasks that have the ratio."""
    means: dict[str, dict[str, float]] = {}
    for arm in {name for row in rows.values() for name in row}:
        means[arm] = {}
        for ratio in RATIOS:
            found = [row[arm][ratio] for row in rows.values() if arm in row and ratio in row[arm]]
            if found and all(math.isfinite(value) for value in found):
                means[arm][ratio] = geometric_mean(found)
    return means


def tables(report: Report) -> str:
    """Return the report as Markdown: a table for each task, the geometric means, then wins and losses."""
    titles = {arm.name: arm.title for arm in ARMS}
    columns = ("final", "lowest", "highest", *RATIOS, "seconds_per_run")
    lines = []
    for task, rows in report["tasks"].items():
        lines += [f"\n### {task}\n", *_header("", *columns)]
        for arm, row in sorted(rows.items(), key=lambda item: item[1]["final"]):
            lines.append(_line(titles[arm], *(_number(row.get(column)) for column in columns)))
        lines += [_learned(titles[arm], row["learning"]) for arm, row in rows.items() if "learning" in row]
    lines += ["\n### Geometric means\n", *_header("", *RATIOS)]
    for arm, means in sorted(report["geometric_means"].items()):
        lines.append(_line(titles[arm], *(_number(means.get(ratio)) for ratio in RATIOS)))
    lines += ["", *(f"- {name}: {meaning}" for name, meaning in RATIOS.items())]
    lines += ["\n### WarpAdam compared with the best peer\n"]
    for task, found in sorted(report["judgements"].items(), key=lambda item: float(item[1]["ratio"])):
        p_values = f"p_win {found['p_win']:.3f}, p_loss {found['p_loss']:.3f}"
        lines.append(
            f"- {found['word']}: {task}, {found['ratio']:.3f} times the loss of {titles[found['peer']]} ({p_values})"
        )
    lines += [f"- missing: {text}" for text in report["missing"]]
    if report["stale_runs"]:
        lines.append(
            f"- {report['stale_runs']} recorded runs were ignored: they belong to another version of a task or an arm"
        )
    return "\n".join(lines)


def _learned(title: str, learning: Report) -> str:
    steps, seconds = learning["steps"], _number(learning["seconds"])
    return (
        f"\n{title} first learned P on {learning['tasks']} other tasks. "
        f"This took {steps} steps and {seconds} s, which the table does not count."
    )


def _header(*names: str) -> list[str]:
    return [_line(*names), _line(*("---" for _ in names))]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def save_report(report: Report, path: Path) -> None:
    """Write the report as JSON: six digits, null for numbers that are not finite, a list of numbers on one line."""
    path.write_text(_text(_plain(report)) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _text(value: Any, margin: str = "\n") -> str:
    inner = margin + " "
    if isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()):
        return "{" + ",".join(f"{inner}{json.dumps(name)}: {_text(item, inner)}" for name, item in value.items()) + "}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[" + ",".join(inner + _text(item, inner) for item in value) + "]"
    return json.dumps(value)
