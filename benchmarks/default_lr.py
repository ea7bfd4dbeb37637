"""Compare WarpAdam and torch's AdamW as they come: each with its default lr, constant, on tasks that punish long steps.

Run::

    python -m benchmarks.default_lr [OUTPUT.json]

Batches of one example, a convolution with batch normalisation, inputs of very different size, a recurrent net, wide
layers, and losses from 1e-6 to 1e6. A figure is WarpAdam's last training loss over AdamW's, for each seed. Results go
to ``benchmarks/default_lr.json`` unless you name another file.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional

from warpadam import WarpAdam

SEEDS = 3
LRS = (None, 0.03)
"""WarpAdam's default, and the one that it had before."""


class Case(NamedTuple):
    """A task: a model, inputs, targets, a loss, and how to train."""

    model: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    batch_size: int
    steps: int
    loss_scale: float = 1.0


def mlp(*widths: int) -> nn.Module:
    """Return a fully connected network with ReLU between its layers."""
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def convolutions() -> nn.Module:
    """Return a small network with batch normalisation for digits of 8 x 8 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 10)),
    )


class Recurrent(nn.Module):
    """A GRU that reads a sequence of numbers and predicts one."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, sequence: Tensor) -> Tensor:
        """Return the prediction for each sequence."""
        found: Tensor = self.head(self.reader(sequence)[0][:, -1])
        return found


def make_cases() -> dict[str, Case]:
    """Return the tasks by name."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    points, weights = randn(512, 16), randn(16, 4)
    classes = (points @ weights + 0.5 * points.square() @ weights.flip(0)).argmax(1)
    digits, diabetes = load_digits(), load_diabetes()
    images = torch.tensor(digits.images[:1000], dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target[:1000])
    patients = torch.tensor(diabetes.data, dtype=torch.float32) * 20
    progress = torch.tensor(diabetes.target, dtype=torch.float32).unsqueeze(1)
    progress = (progress - progress.mean()) / progress.std()
    sizes = torch.logspace(-3, 3, 20)
    scaled = randn(400, 20) * sizes
    sums = scaled @ (randn(20, 1) / sizes.unsqueeze(1)) + 0.01 * randn(400, 1)
    sequences = torch.rand(2000, 12, 1, generator=generator)
    entropy, square = functional.cross_entropy, functional.mse_loss

    def small() -> nn.Module:
        return mlp(16, 64, 64, 4)

    return {
        "classes, batches of 1": Case(small, points, classes, entropy, 1, 800),
        "diabetes, batches of 1": Case(lambda: mlp(10, 64, 64, 1), patients, progress, square, 1, 600),
        "diabetes, batches of 4": Case(lambda: mlp(10, 64, 64, 1), patients, progress, square, 4, 600),
        "digits, convolutions, batches of 4": Case(convolutions, images, labels, entropy, 4, 600),
        "digits, convolutions, batches of 32": Case(convolutions, images, labels, entropy, 32, 300),
        "linear, inputs from 1e-3 to 1e3": Case(lambda: nn.Linear(20, 1), scaled, sums, square, 64, 1000),
        "sums of sequences, GRU": Case(Recurrent, sequences, sequences.sum(1) / 4, square, 32, 300),
        **{
            f"classes, width {width}": Case(
                lambda width=width: mlp(16, width, width, 4),  # type: ignore[misc]
                points,
                classes,
                entropy,
                64,
                60,
            )
            for width in (512, 1024, 2048)
        },
        **{
            f"classes, loss x {scale:g}": Case(small, points, classes, entropy, 64, 400, scale)
            for scale in (1e-6, 1.0, 1e6)
        },
    }


def last_loss(case: Case, make: Callable[[nn.Module], torch.optim.Optimizer], seed: int) -> float:
    """Train and return the loss on all training examples."""
    torch.manual_seed(seed)
    model = case.model()
    optimizer = make(model)
    batches = torch.Generator().manual_seed(seed)
    for _ in range(case.steps):
        batch = torch.randint(len(case.inputs), (case.batch_size,), generator=batches)
        optimizer.zero_grad()
        loss = case.loss(model(case.inputs[batch]), case.targets[batch]) * case.loss_scale
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return case.loss(model(case.inputs), case.targets).item()


def make_warpadam(lr: float | None) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Return what makes a WarpAdam with this lr."""
    return lambda model: WarpAdam(model.named_parameters(), lr=lr)


def main() -> None:
    """Train every case with both optimizers, print the ratios and save them."""
    torch.set_num_threads(1)
    figures: dict[str, dict[str, list[float]]] = {}
    for name, case in make_cases().items():
        seeds = range(SEEDS)
        adamw = [last_loss(case, lambda model: torch.optim.AdamW(model.parameters()), seed) for seed in seeds]
        figures[name] = {}
        for lr in LRS:
            ours = [last_loss(case, make_warpadam(lr), seed) for seed in seeds]
            figures[name]["default" if lr is None else str(lr)] = [a / b for a, b in zip(ours, adamw, strict=True)]
        medians = (f"{label} {statistics.median(ratios):.2f}" for label, ratios in figures[name].items())
        print(f"{name:40} {'  '.join(medians)}", flush=True)
    result = {"loss_over_adamw": figures, "python": platform.python_version(), "torch": torch.__version__}
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
