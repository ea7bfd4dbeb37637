"""Compare ``WarpAdam(model)``, with nothing tuned at all, with AdamW at the best of five learning rates.

Run::

    python -m benchmarks.optimizers.default_alone [--part design|judging ...] [--out FOLDER]

Every task has its usual schedule for both: the lr decays linearly to 0, after a warm-up where the task has one. AdamW
is torch's, with its default betas and weight decay. Its lr is the one with the lowest median loss on the very seeds
that are compared, which favours AdamW. A figure is WarpAdam's final loss over AdamW's, the median over paired seeds.

Where a model has embeddings, it is also compared with ``WarpAdam(model.named_parameters())``, which treats them as any
matrix. Elsewhere both are the same.

You can stop it with Ctrl-C; the same command continues it. Runs are kept in ``runs/`` of the results folder, the
figures in ``default_alone.json``. The figures of a part that you did not ask for stay as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.optim import Optimizer

from benchmarks.optimizers.arms import ADAMW, WARPADAM, Arm, MakeOptimizers, Values, has_embeddings
from benchmarks.optimizers.few_shot_digits import FewShotTask
from benchmarks.optimizers.measures import MARGIN, geometric_mean
from benchmarks.optimizers.records import Record, Records, Stage
from benchmarks.optimizers.tasks import PARTS
from benchmarks.optimizers.training import GradientTask, Task
from search_spaces import SearchSpace
from warpadam import WarpAdam

LRS: Final = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
FIRST_SEED: Final = 200
SEEDS: Final = 3
SEEDS_IF_SLOW: Final = 2
SLOW: Final = 8.0
"""Cost of a task from which it has fewer seeds."""


def _alone(model: nn.Module, _values: Values, _steps: int, _warm_up: int) -> list[Optimizer]:
    return [WarpAdam(model)]


def _ungrouped(model: nn.Module, _values: Values, _steps: int, _warm_up: int) -> list[Optimizer]:
    return [WarpAdam(model.named_parameters())]


def _without_tuning(name: str, title: str, optimizers: MakeOptimizers) -> Arm:
    space = SearchSpace(name=name, parameters=())
    return Arm(name=name, title=title, space=space, optimizers=optimizers, code=WARPADAM.code)


DEFAULT: Final = _without_tuning("warpadam_default", "WarpAdam(model)", _alone)
UNGROUPED: Final = _without_tuning("warpadam_ungrouped", "WarpAdam(model.named_parameters())", _ungrouped)


def adamw_values(lr: float) -> dict[str, Any]:
    """Return torch's defaults for AdamW with this lr."""
    return {"lr": lr, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01}


def final_losses(task: Task, arm: Arm, values: Values, seeds: Iterable[int], folder: Path) -> list[float]:
    """Return the final loss for each seed. Takes finished runs from the record, and runs the others."""
    records, found = Records(folder, task, arm), []
    for seed in seeds:
        record = records.find(Stage.CONFIRM, 0, seed, values)
        if record is None:
            curve = task.run(arm, values, seed)
            record = Record(stage=Stage.CONFIRM, number=0, seed=seed, values=values, curve=curve)
            records.add(record)
        found.append(record.curve.final)
    return found


def paired_ratio(losses: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over seeds of a loss divided by the other."""
    return statistics.median(loss / other for loss, other in zip(losses, others, strict=True))


def compare(task: Task, folder: Path) -> dict[str, Any]:
    """Return the losses and the ratio on one task. Runs what is missing."""
    if isinstance(task, FewShotTask):
        task = replace(task, learning_tasks=0)  # as for AdamW, no other tasks come first
    seeds = range(FIRST_SEED, FIRST_SEED + (SEEDS_IF_SLOW if task.cost >= SLOW else SEEDS))
    by_lr = {lr: final_losses(task, ADAMW, adamw_values(lr), seeds, folder) for lr in LRS}
    best = min(LRS, key=lambda lr: statistics.median(by_lr[lr]))
    found = final_losses(task, DEFAULT, {}, seeds, folder)
    figures = {
        "ratio": paired_ratio(found, by_lr[best]),
        "adamw_lr": best,
        "adamw": {f"{lr:g}": by_lr[lr] for lr in LRS},
        "warpadam": found,
    }
    if isinstance(task, GradientTask) and has_embeddings(task.problem(0).model):  # elsewhere both are the same
        ungrouped = final_losses(task, UNGROUPED, {}, seeds, folder)
        figures |= {"ungrouped": ungrouped, "to_ungrouped": paired_ratio(found, ungrouped)}
    return figures


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures as Markdown, one row for each task."""
    lines = ["| task | WarpAdam(model) | AdamW | its lr | ratio | to named_parameters() |", "|---|---|---|---|---|---|"]
    for name, row in figures.items():
        ours, adamw = (statistics.median(losses) for losses in (row["warpadam"], row["adamw"][f"{row['adamw_lr']:g}"]))
        grouped = f"{row['to_ungrouped']:.3f}" if "to_ungrouped" in row else ""
        lines.append(f"| `{name}` | {ours:.4g} | {adamw:.4g} | {row['adamw_lr']:g} | {row['ratio']:.3f} | {grouped} |")
    ratios = [row["ratio"] for row in figures.values()]
    level = sum(ratio <= MARGIN for ratio in ratios)
    lines.append(f"\nAt most {MARGIN} on {level} of {len(ratios)} tasks; geometric mean {geometric_mean(ratios):.3f}.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print the table of each part and save the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.optimizers.default_alone",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="default: both")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results", help="folder for results (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    target = chosen.out / "default_alone.json"
    saved = json.loads(target.read_text()) if target.exists() else {}
    for part in chosen.part:
        saved[part] = {task.name: compare(task, chosen.out / "runs") for task in PARTS[part]}
        print(f"\n### {part}\n\n{table(saved[part])}", flush=True)
        target.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
