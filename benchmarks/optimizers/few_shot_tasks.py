"""Small classification tasks made of handwritten digits, and the training of one network per task, all at once.

``subsets`` holds out some sets of five digits. ``disjoint`` holds out whole digits: P never sees 6 to 9. This module
does not depend on any optimizer.
"""

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
    """Return 1797 images as rows of 64 pixels in [0, 1], and the digit in each image."""
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


class DigitTask:
    """Classify some of the digits. The label of a digit is its place in ``classes``."""

    def __init__(self, classes: Sequence[int]) -> None:
        images, targets = digits()
        self.classes = tuple(classes)
        rows = torch.cat([(targets == digit).nonzero().squeeze(1) for digit in classes])
        self.inputs = images[rows]
        self.labels = torch.cat([torch.full((int((targets == d).sum()),), label) for label, d in enumerate(classes)])

    def make_model(self) -> nn.Sequential:
        """Return a new network."""
        return nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(self.classes))
        )

    def sample(self) -> Callable[[nn.Module], Tensor]:
        """Draw a batch; return a function that maps a network to its loss on the batch."""
        rows = torch.randint(len(self.labels), (BATCH_SIZE,))
        inputs, labels = self.inputs[rows], self.labels[rows]
        return lambda model: cross_entropy(model(inputs), labels)


@dataclass(frozen=True)
class Split:
    """Tasks to learn P on (training), to choose settings on (validation), and to report (held_out)."""

    training: list[DigitTask]
    validation: list[DigitTask]
    held_out: list[DigitTask]


@lru_cache(maxsize=2)
def subsets() -> Split:
    """Return tasks with five of the ten digits: 200 to learn on, 32 to choose settings on, 20 to report."""
    every = list(combinations(range(10), 5))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    tasks = [DigitTask(every[index]) for index in order]
    return Split(tasks[20:220], tasks[220:], tasks[:20])


@lru_cache(maxsize=2)
def disjoint() -> Split:
    """Return tasks with three digits in some order: all of 0 to 5 to learn on, 20 of 6 to 9 to report."""
    unseen = list(permutations(range(6, 10), 3))
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0)).tolist()
    held_out = [DigitTask(unseen[index]) for index in order[:20]]
    return Split([DigitTask(classes) for classes in permutations(range(6), 3)], [], held_out)


@lru_cache(maxsize=2)
def inner_disjoint() -> Split:
    """Return a split like :func:`disjoint` to choose settings on: learn on 0 to 3, judge on tasks with both 4 and 5."""
    judged = [DigitTask(classes) for other in range(4) for classes in permutations((4, 5, other))]
    return Split([DigitTask(classes) for classes in permutations(range(4), 3)], judged[:20], [])


class SideBySide(nn.ModuleList):
    """One new network for each task, all computed at once. Parameters are named ``<task>.<name>``.

    Args:
        tasks: Tasks with the same number of classes.
        seed: Seed of the networks and the batches.
    """

    def __init__(self, tasks: Sequence[DigitTask], seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__([task.make_model() for task in tasks])
        self._generator = torch.Generator().manual_seed(seed)
        self._inputs, self._labels, self._sizes, self._inside = _padded(tasks)

    def batch_loss(self) -> Tensor:
        """Draw a batch for each network; return the sum of the losses. So the gradient of each network is its own."""
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
    """Train one network on each task; return its mean cross-entropy over the whole task after some steps.

    One optimizer holds the parameters of all networks. Every parameter has its own state, so each network trains as it
    would alone.

    Args:
        tasks: Tasks with the same number of classes.
        make_optimizers: Builds optimizers from the named parameters of all networks.
        steps: Number of training steps.
        seed: Seed of the networks and the batches.
        marks: Steps after which to measure the loss.

    Returns:
        Losses of shape (tasks, marks); infinite where training diverged.
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
    """Return the padded inputs and labels of all tasks, the size of each task, and a mask of the real examples."""
    longest = max(len(task.labels) for task in tasks)
    inputs = torch.zeros(len(tasks), longest, 64)
    labels = torch.zeros(len(tasks), longest, dtype=torch.long)
    sizes = torch.tensor([len(task.labels) for task in tasks])
    for index, task in enumerate(tasks):
        inputs[index, : len(task.labels)], labels[index, : len(task.labels)] = task.inputs, task.labels
    inside = torch.arange(longest) < sizes[:, None]
    return inputs, labels, sizes, inside
