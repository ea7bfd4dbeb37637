"""Tasks on scikit-learn's bundled datasets: classify or autoencode digits, classify tumours, predict diabetes.

Each dataset is split once, with a fixed seed. The seed of a run decides only initial weights and batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.optimizers.training import GradientTask, Problem

VALIDATION: Final = 0.25
"""Share of the rows in the validation part."""

Loss = Callable[[Tensor, Tensor], Tensor]


class Split(NamedTuple):
    """Inputs and targets of the training part and the validation part."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor


class MatrixConv(nn.Module):
    """A 3x3 convolution that keeps its weight as a matrix of shape (out, in * 9).

    This way Muon, which steps only matrices, can train it too. Other optimizers see one matrix instead of a tensor
    with two axes of length 3.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        made = nn.Conv2d(channels, filters, 3)
        assert made.bias is not None
        self.weight = nn.Parameter(made.weight.detach().flatten(1))
        self.bias = nn.Parameter(made.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with padding 1."""
        return functional.conv2d(x, self.weight.view(len(self.weight), -1, 3, 3), self.bias, padding=1)


@lru_cache
def digits() -> Split:
    """Return the digits, with pixels in [0, 1]."""
    x, y = datasets.load_digits(return_X_y=True)
    return _split(x / 16.0, y, stratified=True)


@lru_cache
def breast_cancer() -> Split:
    """Return the tumours; columns are standardised on the training part."""
    return _standardised(*datasets.load_breast_cancer(return_X_y=True), classes=True)


@lru_cache
def diabetes() -> Split:
    """Return the patients; columns and target are standardised on the training part."""
    x, y = datasets.load_diabetes(return_X_y=True)
    return _standardised(x, y[:, None], classes=False)


def mlp(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Return linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def shuffled_batches(rows: int, batch_size: int, order: torch.Generator) -> Iterator[Tensor]:
    """Yield the rows of each batch without end, in a new order each time. Rows that do not fill a batch are skipped."""
    while True:
        shuffled = torch.randperm(rows, generator=order)
        yield from reversed(shuffled[: rows // batch_size * batch_size].view(-1, batch_size).unbind())


def supervised(model: nn.Module, data: Split, loss: Loss, batch_size: int, seed: int) -> Problem:
    """Return the problem of fitting ``model`` on shuffled batches."""
    batches = shuffled_batches(len(data.x), batch_size, torch.Generator().manual_seed(seed))

    def batch_loss() -> Tensor:
        batch = next(batches)
        return loss(model(data.x[batch]), data.y[batch])

    return Problem(model, batch_loss, lambda: loss(model(data.x_val), data.y_val).item())


def summed_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared error, summed over pixels and averaged over samples."""
    return (output - target).square().sum(dim=1).mean()


def _split(x: Any, y: Any, *, stratified: bool) -> Split:
    parts = train_test_split(x, y, test_size=VALIDATION, random_state=0, stratify=y if stratified else None)
    x_train, x_val, y_train, y_val = (torch.from_numpy(part) for part in parts)
    kind = torch.int64 if stratified else torch.float32
    return Split(x_train.float(), y_train.to(kind), x_val.float(), y_val.to(kind))


def _standardised(x: Any, y: Any, *, classes: bool) -> Split:
    data = _split(x, y, stratified=classes)
    data = data._replace(**_scaled("x", data.x, data.x_val))
    return data if classes else data._replace(**_scaled("y", data.y, data.y_val))


def _scaled(name: str, train: Tensor, val: Tensor) -> dict[str, Tensor]:
    mean, std = train.mean(0), train.std(0)
    return {name: (train - mean) / std, f"{name}_val": (val - mean) / std}


def _digits_mlp(seed: int) -> Problem:
    return supervised(mlp((64, 64, 10), nn.ReLU), digits(), functional.cross_entropy, 64, seed)


def _digits_autoencoder(seed: int) -> Problem:
    data = digits()
    images = Split(data.x, data.x, data.x_val, data.x_val)
    return supervised(mlp((64, 96, 48, 30, 48, 96, 64), nn.Tanh), images, summed_squared_error, 128, seed)


def _digits_convnet(seed: int) -> Problem:
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        MatrixConv(1, 12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        MatrixConv(12, 24),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
    return supervised(model, digits(), functional.cross_entropy, 64, seed)


def _breast_cancer(seed: int) -> Problem:
    return supervised(mlp((30, 32, 16, 2), nn.ReLU), breast_cancer(), functional.cross_entropy, 32, seed)


def _diabetes(seed: int) -> Problem:
    return supervised(mlp((10, 32, 16, 1), nn.ReLU), diabetes(), functional.mse_loss, 32, seed)


TASKS: Final = (
    GradientTask(name="digits_mlp", version="1", steps=300, seeds_per_trial=3, cost=1.0, problem=_digits_mlp),
    GradientTask(name="digits_autoencoder", version="1", steps=400, cost=3.0, problem=_digits_autoencoder),
    GradientTask(name="digits_convnet", version="1", steps=200, seeds_per_trial=3, cost=1.5, problem=_digits_convnet),
    GradientTask(name="breast_cancer", version="1", steps=200, seeds_per_trial=3, cost=1.0, problem=_breast_cancer),
    GradientTask(name="diabetes", version="1", steps=200, seeds_per_trial=3, cost=1.0, problem=_diabetes),
)
