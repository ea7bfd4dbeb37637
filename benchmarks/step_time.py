# What one optimizer step costs beside torch's AdamW, in one process and one thread. All optimizers take turns in every
# round, so a busy machine slows them alike; the figure is the median over the rounds.
"""Milliseconds a step of WarpAdam and of torch.optim.AdamW."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from warpadam import WarpAdam

ROUNDS, STEPS, WARM_UP = 9, 10, 8

AUTOENCODER = (64, 96, 48, 30, 48, 96, 64)
WIDTH, LAYERS = 64, 4

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "ten 64x64 matrices, ten vectors": [(64, 64), (64,)] * 10,
    "autoencoder, 12 tensors": [s for i, o in pairwise(AUTOENCODER) for s in ((o, i), (o,))],
    "transformer of width 64, 4 layers": [
        s
        for shape in ((3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH))
        for s in (shape, shape[:1])
    ]
    * LAYERS,
}

HYPERGRADIENT: dict[str, Any] = {"learner": "hypergradient", "p_lr": 0.01}
WHITENING: dict[str, Any] = {"placement": "pre", "learner": "whitening", "p_lr": 0.0}
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "AdamW, for-loop": lambda params: torch.optim.AdamW(params, foreach=False),
    "AdamW, foreach": lambda params: torch.optim.AdamW(params, foreach=True),
    "frozen, diagonal": lambda params: WarpAdam(params, structure="diagonal", learner="frozen"),
    "diagonal hypergradient, every 10": lambda params: WarpAdam(params, structure="diagonal", **HYPERGRADIENT),
    "kronecker hypergradient, every 10": lambda params: WarpAdam(params, **HYPERGRADIENT),
    "rotation, p_lr 0, every 10": lambda params: WarpAdam(params, p_lr=0.0),
    "rotation with scale, every 10": lambda params: WarpAdam(params, p_lr=0.03),
    "rotation with scale, every 2": lambda params: WarpAdam(params, p_lr=0.03, meta_every=2),
    "whitening, p_lr 0, every 10": lambda params: WarpAdam(params, **WHITENING),
    "whitening, p_lr 0, every 5": lambda params: WarpAdam(params, **WHITENING, meta_every=5),
}


def milliseconds(shapes: list[tuple[int, ...]]) -> dict[str, float]:
    """Return the median time of a step of every optimizer; gradients are given, not computed."""
    made = {}
    for name, make in OPTIMIZERS.items():
        params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        for param in params:
            param.grad = torch.randn_like(param)
        made[name] = make(params)
        for _ in range(WARM_UP):
            made[name].step()
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, optimizer in made.items():
            started = time.perf_counter()
            for _ in range(STEPS):
                optimizer.step()
            times[name].append((time.perf_counter() - started) / STEPS * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure, print, save."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    figures = {}
    for label, shapes in SHAPES.items():
        figures[label] = milliseconds(shapes)
        print(label)
        for name, value in figures[label].items():
            print(f"  {name:36} {value:8.2f} ms  {value / figures[label]['AdamW, for-loop']:6.1f} times AdamW")
    result = {
        "milliseconds": figures,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, 1 thread of {os.cpu_count()} cores",
    }
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
