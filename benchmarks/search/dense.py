"""Trains the grid of configs of an arm on a table: validation and test loss at every point, on many splits and seeds.

The networks of a config train side by side under one optimizer. Their parameters are separate, so each ends as it
would alone, up to rounding; the optimizer handles equal shapes together, which takes a quarter of the time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.search.tables import Table
from search_spaces import Scalar
from service.data.prepare import split_rows
from service.optimizers import OPTIMIZERS, build_optimizer
from service.training.loop import report_steps
from service.training.run import Training
from service.training.step import TrainingStep

FOLDER: Final = Path(__file__).parent / "cache"
SPLITS: Final = 16
STEPS: Final = 400
BATCH_SIZE: Final = 128
HIDDEN: Final = (64, 64)

LRS: Final = tuple(10 ** (-4 + k / 4) for k in range(15))
"""From 1e-4 to 0.32, four to a decade."""

Curves = npt.NDArray[np.float32]
"""configs x splits x points x (validation, test)."""


def grid(arm: str) -> list[dict[str, Scalar]]:
    """Return the configs of an arm."""
    if arm == "adamw":
        betas = ((0.9, 0.999), (0.9, 0.95))
        return [
            {"lr": lr, "beta1": b1, "beta2": b2, "weight_decay": decay}
            for (b1, b2), decay, lr in product(betas, (0.0, 0.1), LRS)
        ]
    common: dict[str, Scalar] = {"beta1": 0.9, "beta2": 0.95, "meta_every": 5}
    rotated = product(("kronecker/pre/whitening", "kronecker/sandwich/rotation"), (0.0, 0.1), LRS[4:])
    scaled = product(("kronecker/sandwich/hypergradient", "diagonal/sandwich/hypergradient"), LRS[4:13:2])
    return [
        *(
            {**common, "strategy": strategy, "weight_decay": decay, "lr": lr, "p_lr": 0.0}
            for strategy, decay, lr in rotated
        ),
        *({**common, "strategy": strategy, "weight_decay": 0.0, "lr": lr, "p_lr": 0.03} for strategy, lr in scaled),
    ]


def file_of(name: str, arm: str) -> Path:
    """Return where the curves of a table are kept."""
    return FOLDER / f"{name}.{arm}.npz"


def make(name: str, table: Table, arm: str) -> None:
    """Train the grid of an arm on a table and store its curves."""
    torch.set_num_threads(1)
    parts = [_split(table, seed) for seed in range(SPLITS)]
    configs = grid(arm)
    curves = np.stack([_train(arm, config, parts, table.classes) for config in configs])
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(file_of(name, arm), curves=curves, configs=json.dumps(configs), rows=len(table.y))


def load(name: str, arm: str) -> tuple[Curves, list[dict[str, Scalar]], int]:
    """Return the curves of a table, the configs that they are of, and the rows of the table."""
    stored = np.load(file_of(name, arm))
    configs: list[dict[str, Scalar]] = json.loads(str(stored["configs"]))
    return stored["curves"], configs, int(stored["rows"])


Parts = Mapping[str, tuple[Tensor, Tensor]]


def _split(table: Table, seed: int) -> Parts:
    """Split and standardise a table as the service does."""
    rows = split_rows(len(table.y), seed, table.y if table.classes else None)
    train = rows["train"]
    x = (table.x - table.x[train].mean(0)) / np.where(table.x[train].std(0) > 0, table.x[train].std(0), 1.0)
    y: Any = table.y
    if not table.classes:
        y = ((table.y - table.y[train].mean()) / table.y[train].std()).astype(np.float32)[:, None]
    return {part: (torch.tensor(x[r], dtype=torch.float32), torch.tensor(y[r])) for part, r in rows.items()}


class _SideBySide(nn.Module):
    """Networks of the same shape, each with its own parameters and its own rows."""

    def __init__(self, sizes: tuple[int, ...], count: int) -> None:
        super().__init__()
        networks = []
        for seed in range(count):
            torch.manual_seed(seed)
            networks.append([nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)])
        self._layers = list(zip(*networks, strict=True))
        self.layers = nn.ModuleList(nn.ModuleList(layer) for layer in self._layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return networks x rows x outputs."""
        for number, layer in enumerate(self._layers, start=1):
            weight, bias = torch.stack([one.weight for one in layer]), torch.stack([one.bias for one in layer])
            x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
            x = x.relu() if number < len(self._layers) else x
        return x


def _train(arm: str, config: dict[str, Scalar], splits: list[Parts], classes: int) -> Curves:
    """Return splits x points x (validation, test)."""

    def loss_of_each(output: Tensor, y: Tensor) -> Tensor:
        if classes:
            return functional.cross_entropy(output.transpose(1, 2), y, reduction="none").mean(1)
        return (output - y).square().mean((1, 2))

    data = {part: [torch.stack(both) for both in zip(*(s[part] for s in splits), strict=True)] for part in splits[0]}
    (x, y), count = data["train"], len(splits)
    model = _SideBySide((x.shape[2], *HIDDEN, classes or 1), count)
    optimizer = build_optimizer(arm, model, OPTIMIZERS[arm].config(config))
    step = TrainingStep(model, optimizer, lambda a, b: loss_of_each(a, b).sum(), Training(), STEPS, "cpu")
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    rows, each = x.shape[1], torch.arange(count)[:, None]
    batch = min(BATCH_SIZE, rows)
    taken, points, curve = rows, set(report_steps(STEPS)), []
    for done in range(1, STEPS + 1):
        if taken + batch > rows:
            order, taken = torch.stack([torch.randperm(rows, generator=g) for g in generators]), 0
        chosen = order[:, taken : taken + batch]
        taken += batch
        step(x[each, chosen], y[each, chosen])
        if done in points:
            with torch.no_grad():
                curve.append(torch.stack([loss_of_each(model(data[p][0]), data[p][1]) for p in ("val", "test")], 1))
    return torch.stack(curve, 1).numpy()
