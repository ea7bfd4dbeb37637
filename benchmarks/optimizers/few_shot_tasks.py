# The tasks of few_shot.py, and how many networks are trained side by side. Knows no optimizer.
"""Small problems made of handwritten digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BATCH_SIZE = 32

NamedParams = list[tuple[str, nn.Parameter]]
OptimizerFactory = Callable[[NamedParams], Sequence[torch.optim.Optimizer]]


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """Return 1797 images as rows of 64 numbers from 0 to 1, and their digits."""
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


class DigitTask:
    """Tell some digits apart; their order gives the labels."""

    def __init__(self, classes: Sequence[int]) -> None:
        images, targets = digits()
        self.classes = tuple(classes)
        rows = torch.cat([(targets == digit).nonzero().squeeze(1) for digit in classes])
        self.inputs = images[rows]
        self.labels = torch.cat([torch.full((int((targets == d).sum()),), label) for label, d in enumerate(classes)])

    def make_model(self) -> nn.Sequential:
        """Return a fresh network."""
        return nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(self.classes))
        )

    def sample(self) -> Callable[[nn.Module], Tensor]:
        """Draw a batch; return its loss as a function of the network."""
        rows = torch.randint(len(self.labels), (BATCH_SIZE,))
        inputs, labels = self.inputs[rows], self.labels[rows]
        return lambda model: cross_entropy(model(inputs), labels)


@dataclass(frozen=True)
class Split:
    """Tasks to learn P on, to choose settings on, and to report."""

    training: list[DigitTask]
    validation: list[DigitTask]
    held_out: list[DigitTask]


@lru_cache(maxsize=2)
def subsets() -> Split:
    """Five of ten digits: 200 subsets to learn on, 32 to choose on, 20 to report."""
    every = list(combinations(range(10), 5))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    tasks = [DigitTask(every[index]) for index in order]
    return Split(tasks[20:220], tasks[220:], tasks[:20])


@lru_cache(maxsize=2)
def disjoint() -> Split:
    """Three digits in an order: all of 0-5 to learn on, 20 of 6-9 to report."""
    unseen = list(permutations(range(6, 10), 3))
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0)).tolist()
    held_out = [DigitTask(unseen[index]) for index in order[:20]]
    return Split([DigitTask(classes) for classes in permutations(range(6), 3)], [], held_out)


@lru_cache(maxsize=2)
def inner_disjoint() -> Split:
    """The same within 0-5, to choose settings on: learn on 0-3, judge where 4 and 5 are among the three."""
    judged = [DigitTask(classes) for other in range(4) for classes in permutations((4, 5, other))]
    return Split([DigitTask(classes) for classes in permutations(range(4), 3)], judged[:20], [])


class SideBySide(nn.ModuleList):
    """A fresh network for each task, computed as one; a parameter is called ``<task>.<its name>``.

    Args:
        tasks: With the same number of classes.
        seed: Of the networks and the batches.
    """

    def __init__(self, tasks: Sequence[DigitTask], seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__([task.make_model() for task in tasks])
        self._generator = torch.Generator().manual_seed(seed)
        self._inputs, self._labels, self._sizes, self._inside = _padded(tasks)

    def batch_loss(self) -> Tensor:
        """Draw a batch for each network; return the sum of their losses, so none feels the others."""
        each = torch.arange(len(self))[:, None]
        rows = (torch.rand(len(self), BATCH_SIZE, generator=self._generator) * self._sizes[:, None]).long()
        return self._losses(self._inputs[each, rows], self._labels[each, rows]).mean(1).sum()

    def task_losses(self) -> Tensor:
        """Return the mean cross-entropy of each network over its whole task."""
        with torch.no_grad():
            return (self._losses(self._inputs, self._labels) * self._inside).sum(1) / self._sizes

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        stacked = [torch.stack(same) for same in zip(*(model.parameters() for model in self), strict=True)]
        for layer in range(0, len(stacked), 2):
            x = torch.baddbmm(stacked[layer + 1].unsqueeze(1), x, stacked[layer].mT)
            if layer < len(stacked) - 2:
                x = x.relu()
        return cross_entropy(x.transpose(1, 2), y, reduction="none")


def train_together(
    tasks: Sequence[DigitTask], make_optimizers: OptimizerFactory, steps: int, seed: int, marks: Sequence[int]
) -> Tensor:
    """Train a network on each task and return the mean cross-entropy over its whole task after some steps.

    The networks are stepped by one optimizer that holds all their parameters. Every parameter has its own state, so
    each network goes where it would go alone.

    Args:
        tasks: With the same number of classes.
        make_optimizers: From the named parameters of all networks.
        steps: To train.
        seed: Of the networks and the batches.
        marks: Steps after which the loss is wanted.

    Returns:
        tasks x marks; infinite where it is not a number.
    """
    networks = SideBySide(tasks, seed)
    optimizers = make_optimizers(list(networks.named_parameters()))
    found = []
    for step in range(1, steps + 1):
        networks.zero_grad()
        torch.autograd.backward(networks.batch_loss())
        for optimizer in optimizers:
            optimizer.step()
        if step in marks:
            loss = networks.task_losses()
            found.append(torch.where(loss.isfinite(), loss, torch.inf))
    return torch.stack(found, 1)


def _padded(tasks: Sequence[DigitTask]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all examples of all tasks, their labels, how many each task has, and which rows are examples."""
    longest = max(len(task.labels) for task in tasks)
    inputs = torch.zeros(len(tasks), longest, 64)
    labels = torch.zeros(len(tasks), longest, dtype=torch.long)
    sizes = torch.tensor([len(task.labels) for task in tasks])
    for index, task in enumerate(tasks):
        inputs[index, : len(task.labels)], labels[index, : len(task.labels)] = task.inputs, task.labels
    inside = torch.arange(longest) < sizes[:, None]
    return inputs, labels, sizes, inside
