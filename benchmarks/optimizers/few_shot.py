"""Measure whether a P that was learned on many small digit tasks helps on new ones.

Run::

    python -m benchmarks.optimizers.few_shot [subsets] [disjoint]

WarpAdam learns P on training tasks and then trains on held-out tasks. AdamW, SOAP and Muon have no P to bring along.
In return, their lr and momentum are tuned on the held-out tasks themselves, separately for each column of the table.
``few_shot_tasks.py`` defines the two ways to hold tasks out.

The table shows the mean loss on held-out tasks after 10, 30 and 100 steps. ``ratio_to_soap`` below 1 means that
WarpAdam's loss is below that of the better SOAP. ``steps_to_adamw_100`` is the number of steps WarpAdam needs to reach
AdamW's loss after 100 steps. Results go to ``benchmarks/optimizers/few_shot.json``.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import pytorch_optimizer
import torch

from benchmarks.few_shot.networks import MARKS, NamedParams, OptimizerFactory, train_together
from benchmarks.optimizers.few_shot_tasks import Split, disjoint, subsets
from warpadam import MetaConfig, MetaTrainer, Warp, WarpAdam, WarpAdamConfig

SEEDS = (0, 1, 2)
TUNING_SEED = 7
STEPS_PER_TASK = 50
SPLITS: dict[str, Callable[[], Split]] = {"subsets": subsets, "disjoint": disjoint}
TARGETS = {"subsets": (0.6, 0.8, 0.5), "disjoint": (0.5, 0.85, 0.4)}

Setting = tuple[float, Any]
"""An lr, and betas or a momentum."""


@dataclass(frozen=True)
class Recipe:
    """How P is learned and used. One recipe serves all columns.

    Attributes:
        training: Config for learning P.
        rounds: Number of tasks to learn P on.
        held_out: Settings that differ on held-out tasks.
    """

    training: WarpAdamConfig
    rounds: int
    held_out: dict[str, Any]


_TRAINING = WarpAdamConfig(learner="rotation", lr=0.01, betas=(0.8, 0.95), p_lr=0.003, meta_every=1)

RECIPES = {
    "subsets": Recipe(_TRAINING, 100, {"cov_beta": 0.9, "betas": (0.7, 0.95), "p_lr": 0.003, "p_decay": 0.02}),
    "disjoint": Recipe(
        replace(_TRAINING, cov_beta=0.99),
        120,
        {"lr": 0.007, "cov_beta": 0.9, "betas": (0.6, 0.9), "p_lr": 0.003, "p_decay": 0.005},
    ),
}
"""These were chosen on ``subsets().validation`` and ``inner_disjoint()``, never on held-out tasks."""


def from_warp(warp: Warp, tasks: int, **settings: Any) -> OptimizerFactory:
    """Return a factory of one optimizer for ``tasks`` networks, which all start from the same P.

    P stays fixed unless ``settings`` change that.
    """
    parameters = {f"{i}.{name}": own for i in range(tasks) for name, own in warp.parameters.items()}
    many = Warp(warp.config, parameters)
    return lambda named: [many.optimizer(named, **settings)]


def learn_p(split: Split, config: WarpAdamConfig, *, rounds: int, steps: int, seed: int) -> Warp:
    """Learn P online on the training tasks of a split."""
    return MetaTrainer(split.training, config, MetaConfig(steps=steps, seed=seed)).train(rounds).warp


def _adamw(lr: float, betas: Any) -> OptimizerFactory:
    return lambda named: [torch.optim.AdamW([p for _, p in named], lr, betas, weight_decay=0.0)]


def _soap(lr: float, betas: Any) -> OptimizerFactory:
    settings: dict[str, Any] = {"learner": "rotation", "betas": betas, "cov_beta": betas[1], "p_lr": 0.0}
    return lambda named: [WarpAdam(named, lr, meta_every=1, **settings)]


def _other_soap(lr: float, betas: Any) -> OptimizerFactory:
    settings: dict[str, Any] = {"betas": betas, "weight_decay": 0.0, "precondition_frequency": 1}
    return lambda named: [pytorch_optimizer.SOAP([p for _, p in named], lr, **settings)]


def _muon(lr: float, momentum: Any) -> OptimizerFactory:
    def make(named: NamedParams) -> list[torch.optim.Optimizer]:
        matrices, vectors = ([p for _, p in named if (p.ndim == 2) == wanted] for wanted in (True, False))
        return [
            torch.optim.Muon(matrices, lr, weight_decay=0.0, momentum=momentum),
            torch.optim.AdamW(vectors, 0.01, weight_decay=0.0),
        ]

    return make


@dataclass(frozen=True)
class Peer:
    """An optimizer to compare with.

    Attributes:
        make: Builds it from an lr and a momentum.
        lrs: Values of the lr to try for each column.
        momenta: Betas or momenta to try with each lr.
        tasks: Number of held-out tasks to tune on.
    """

    make: Callable[[float, Any], OptimizerFactory]
    lrs: tuple[float, ...]
    momenta: tuple[Any, ...]
    tasks: int = 20


PEERS = {
    "AdamW": Peer(_adamw, (0.003, 0.006, 0.01, 0.02, 0.03), ((0.5, 0.9), (0.8, 0.95), (0.9, 0.95), (0.9, 0.99))),
    "SOAP": Peer(_soap, (0.02, 0.03, 0.05, 0.1, 0.15), ((0.5, 0.9), (0.8, 0.95), (0.9, 0.95))),
    "Muon": Peer(_muon, (0.05, 0.1, 0.2), (0.8, 0.95), tasks=5),
}


def tune(split: Split, peer: Peer) -> list[Setting]:
    """Return the best setting for each column, tuned on held-out tasks with a separate seed. This favours the peer."""
    tasks = split.held_out[: peer.tasks]
    tried = {
        (lr, momentum): train_together(tasks, peer.make(lr, momentum), TUNING_SEED)[0].mean(0).tolist()
        for lr in peer.lrs
        for momentum in peer.momenta
    }
    return [min(tried, key=lambda setting: tried[setting][column]) for column in range(len(MARKS))]


def measure_peer(
    split: Split, make: Callable[[float, Any], OptimizerFactory], settings: list[Setting]
) -> dict[str, Any]:
    """Measure each column with its own best setting."""
    runs = {
        setting: [train_together(split.held_out, make(*setting), seed)[0].mean(0).tolist() for seed in SEEDS]
        for setting in set(settings)
    }
    per_seed = [[run[column] for run in runs[setting]] for column, setting in enumerate(settings)]
    return {"settings": settings, "per_seed": per_seed, "loss": [mean(losses) for losses in per_seed]}


def measure_warp(split: Split, recipe: Recipe) -> dict[str, Any]:
    """Learn one P for each seed and measure it on the held-out tasks after every step."""
    curves = []
    for seed in SEEDS:
        warp = learn_p(split, recipe.training, rounds=recipe.rounds, steps=STEPS_PER_TASK, seed=seed)
        make = from_warp(warp, len(split.held_out), **recipe.held_out)
        losses = train_together(split.held_out, make, seed, range(1, MARKS[-1] + 1))[0]
        curves.append(losses.mean(0).tolist())
    curve = [mean(losses) for losses in zip(*curves, strict=True)]
    per_seed = [[one[mark - 1] for one in curves] for mark in MARKS]
    return {"per_seed": per_seed, "loss": [curve[mark - 1] for mark in MARKS], "curve": curve}


def run(variant: str) -> dict[str, Any]:
    """Measure, print and return one table and its ratios."""
    split = SPLITS[variant]()
    rows = {"WarpAdam": measure_warp(split, RECIPES[variant])}
    for name, peer in PEERS.items():
        settings = tune(split, peer)
        rows[name] = measure_peer(split, peer.make, settings)
        if name == "SOAP":  # try the same settings in another implementation; compare with the better one
            rows["SOAP of pytorch_optimizer"] = measure_peer(split, _other_soap, settings)
    columns = range(len(MARKS))
    soap = [min(row["loss"][column] for name, row in rows.items() if "SOAP" in name) for column in columns]
    ratios = [ours / theirs for ours, theirs in zip(rows["WarpAdam"]["loss"], soap, strict=True)]
    goal = rows["AdamW"]["loss"][-1]
    steps = next((step for step, loss in enumerate(rows["WarpAdam"]["curve"], start=1) if loss <= goal), None)
    for name, row in rows.items():
        print(f"{variant:9} {name:26}", *(f"{loss:9.5f}" for loss in row["loss"]), row.get("settings", ""))
    print(f"{variant:9} {'ratio to the better SOAP':26}", *(f"{ratio:9.3f}" for ratio in ratios))
    print(f"{variant:9} steps to AdamW's loss after 100 steps: {steps}", flush=True)
    return {
        "rows": rows,
        "ratio_to_soap": ratios,
        "targets": TARGETS[variant],
        "met": [ratio <= target for ratio, target in zip(ratios, TARGETS[variant], strict=True)],
        "steps_to_adamw_100": steps,
    }


def main(variants: Sequence[str]) -> None:
    """Measure each variant, print the figures and save them. Keeps saved figures of other variants."""
    torch.set_num_threads(1)
    path = Path(__file__).with_suffix(".json")
    for variant in variants:
        recipe = RECIPES[variant]
        result = {
            **run(variant),
            "marks": MARKS,
            "seeds": SEEDS,
            "tuning_seed": TUNING_SEED,
            "training": {**recipe.training.to_dict(), "rounds": recipe.rounds, "steps_per_task": STEPS_PER_TASK},
            "held_out": replace(recipe.training, **{"p_lr": 0.0} | recipe.held_out).to_dict(),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: version(name) for name in ("torch", "pytorch_optimizer", "scikit-learn", "warptune")},
        }
        saved = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**saved, variant: result}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(SPLITS))
