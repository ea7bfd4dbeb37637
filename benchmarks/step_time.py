"""Measure the milliseconds of one optimizer step: WarpAdam, torch's Adam, and SOAP from pytorch_optimizer.

Run::

    python benchmarks/step_time.py [OUTPUT.json]

Only the step is timed; the gradients are random and fixed. The optimizers take turns in every round, so other load on
the machine slows all of them alike. A figure is the median over rounds of the mean over 20 steps, and includes the
steps that refresh P. "matrix products of P g and P^T u" are the products that a Kronecker P on both sides cannot do
without, so they are a lower bound. ``max_dim`` is 1024 unless the name says otherwise. Results go to
``benchmarks/step_time.json`` unless you name another file.

On a busy machine, set ``OMP_PROC_BIND=true``. Otherwise two threads may share a core and wait for each other.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_optimizer import SOAP
from torch import nn

from warpadam import WarpAdam

STEPS, WARM_UP = 20, 10

Shapes = list[tuple[int, ...]]
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def layers(*widths: int) -> Shapes:
    """Return the shapes of a fully connected network: a matrix and a bias for each layer."""
    return [shape for inputs, outputs in pairwise(widths) for shape in ((outputs, inputs), (outputs,))]


def transformer(width: int, depth: int, vocabulary: int, context: int) -> Shapes:
    """Return the shapes of a transformer with biases and two norms in each layer."""
    block: Shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    layer: Shapes = [shape for matrix in block for shape in (matrix, matrix[:1])] + [(width,)] * 4
    ends: Shapes = [(vocabulary, width), (context, width), (width,), (width,), (vocabulary, width), (vocabulary,)]
    return layer * depth + ends


class Case(NamedTuple):
    """Shapes of the parameters to step, the number of threads, and the number of rounds."""

    shapes: Shapes
    threads: int
    rounds: int


CASES: dict[str, Case] = {
    "transformer of width 256, 4 layers, 3.3 M parameters": Case(transformer(256, 4, 100, 128), 2, 2),
    "ten 64x64 matrices, ten vectors": Case([(64, 64), (64,)] * 10, 1, 9),
    "MLP 2-48-48-48-1, 8 tensors": Case(layers(2, 48, 48, 48, 1), 1, 9),
    "autoencoder 64-96-48-30-48-96-64, 12 tensors": Case(layers(64, 96, 48, 30, 48, 96, 64), 1, 9),
    "transformer of width 64, 4 layers": Case(transformer(64, 4, 100, 64), 1, 5),
}

EVERY_10: dict[str, Any] = {"meta_every": 10, "max_dim": 1024}
HYPERGRADIENT: dict[str, Any] = {**EVERY_10, "learner": "hypergradient"}
ROTATION: dict[str, Any] = {**EVERY_10, "learner": "rotation"}
WHITENING: dict[str, Any] = {**EVERY_10, "learner": "whitening"}
OPTIMIZERS: dict[str, Make] = {
    "Adam, foreach": lambda params: torch.optim.Adam(params, foreach=True),
    "SOAP of pytorch_optimizer, every 10": lambda params: SOAP(params, precondition_frequency=10),
    "frozen, diagonal": lambda params: WarpAdam(params, structure="diagonal", placement="sandwich", learner="frozen"),
    "diagonal hypergradient, every 10": lambda params: WarpAdam(params, structure="diagonal", **HYPERGRADIENT),
    "low_rank(16) hypergradient, every 10": lambda params: WarpAdam(
        params, structure="low_rank", rank=16, **HYPERGRADIENT
    ),
    "kronecker hypergradient, every 10": lambda params: WarpAdam(params, **HYPERGRADIENT),
    "rotation, p_lr 0, every 10": lambda params: WarpAdam(params, **ROTATION, p_lr=0.0),
    "rotation, p_lr 0, max_dim 512, every 10": lambda params: WarpAdam(
        params, **{**ROTATION, "max_dim": 512}, p_lr=0.0
    ),
    "rotation with scale, every 10": lambda params: WarpAdam(params, **ROTATION, p_lr=0.03),
    "whitening, p_lr 0, every 10": lambda params: WarpAdam(params, **WHITENING, p_lr=0.0),
    "whitening with scale, every 10": lambda params: WarpAdam(params, **WHITENING, p_lr=0.03),
}


def milliseconds(case: Case) -> dict[str, float]:
    """Return the milliseconds per step of every optimizer."""
    torch.set_num_threads(case.threads)
    made = {name: _stepper(make, case.shapes) for name, make in OPTIMIZERS.items()}
    made = {"matrix products of P g and P^T u": _products(case.shapes), **made}
    times: dict[str, list[float]] = {name: [] for name in made}
    for step in made.values():
        for _ in range(WARM_UP):
            step()
    for _ in range(case.rounds):
        for name, step in made.items():
            started = time.perf_counter()
            for _ in range(STEPS):
                step()
            times[name].append((time.perf_counter() - started) / STEPS * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def _stepper(make: Make, shapes: Shapes) -> Callable[[], object]:
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    return make(params).step


def _products(shapes: Shapes) -> Callable[[], object]:
    """Return a function that only computes A G B^T and A^T U B for every matrix: the lower bound for a Kronecker P."""
    matrices = [(torch.randn(shape), *(torch.randn(n, n) for n in shape)) for shape in shapes if len(shape) == 2]

    def multiply() -> None:
        for grad, row, column in matrices:
            torch.mm(torch.mm(row, grad), column.T)
            torch.mm(torch.mm(row.T, grad), column)

    return multiply


def main() -> None:
    """Measure every case, print the figures and save them."""
    torch.manual_seed(0)
    figures = {}
    for label, case in CASES.items():
        figures[label] = milliseconds(case)
        adam, soap = (figures[label][name] for name in list(OPTIMIZERS)[:2])
        print(f"{label}, {case.threads} thread{'s' if case.threads > 1 else ''}")
        for name, value in figures[label].items():
            print(f"  {name:40} {value:8.2f} ms  {value / adam:6.1f} x Adam  {value / soap:5.2f} x SOAP")
    result = {
        "milliseconds": figures,
        "threads": {label: case.threads for label, case in CASES.items()},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_optimizer": version("pytorch_optimizer"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
