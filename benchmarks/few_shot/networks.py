"""Small tasks, and the training of one network for each of them, all at once. Does not depend on any optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BATCH_SIZE = 32

MARKS = (10, 30, 100)
"""Steps after which losses are compared, one for each column of the table."""

NamedParams = list[tuple[str, nn.Parameter]]
OptimizerFactory = Callable[[NamedParams], Sequence[torch.optim.Optimizer]]


class Rows(NamedTuple):
    """Rows of a task: inputs of shape (rows, features), and labels (rows) or numbers (rows, outputs)."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class RowsTask:
    """Learn the targets of some rows. Whole-numbered targets are classes, others are fitted by squared error.

    Attributes:
        fit: Rows to train on.
        held_out: Rows that only judge.
        sizes: Width of every layer of the network, inputs and outputs included.
        activation: Between two layers.
    """

    fit: Rows
    held_out: Rows
    sizes: tuple[int, ...]
    activation: type[nn.Module] = field(default=nn.ReLU, kw_only=True)

    def make_model(self) -> nn.Sequential:
        """Return a new network."""
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(self.sizes, self.sizes[1:], strict=False):
            layers += [nn.Linear(fan_in, fan_out), self.activation()]
        return nn.Sequential(*layers[:-1])

    def sample(self) -> Callable[[nn.Module], Tensor]:
        """Draw a batch; return a function that maps a network to its loss on the batch."""
        rows = torch.randint(len(self.fit.targets), (BATCH_SIZE,))
        inputs, targets = self.fit.inputs[rows], self.fit.targets[rows]
        return lambda model: row_losses(model(inputs), targets).mean()


def row_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of every row; outputs end in an axis of classes or numbers."""
    if targets.is_floating_point():
        return (outputs - targets).square().mean(-1)
    return cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")


class SideBySide(nn.ModuleList):
    """One new network for each task, all computed at once. Parameters are named ``<task>.<name>``.

    Args:
        tasks: Tasks whose networks are alike.
        seed: Seed of the networks and the batches.
        twins: Whether the second half starts as the first half does, and draws the same batches.
    """

    def __init__(self, tasks: Sequence[RowsTask], seed: int, *, twins: bool = False) -> None:
        self._copies = 2 if twins else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models = [task.make_model() for task in tasks[: len(tasks) // self._copies]]
        super().__init__(copy.deepcopy(model) for _ in range(self._copies) for model in models)
        self._generator = torch.Generator().manual_seed(seed)
        self._activation = tasks[0].activation().forward  # a module would count as a network
        self._fit = _padded([task.fit for task in tasks])
        self._held_out = _padded([task.held_out for task in tasks])

    def batch_loss(self) -> Tensor:
        """Draw a batch for each network; return the sum of the losses. So the gradient of each network is its own."""
        rows, sizes, _ = self._fit
        each = torch.arange(len(self))[:, None]
        draws = torch.rand(len(self) // self._copies, BATCH_SIZE, generator=self._generator).repeat(self._copies, 1)
        drawn = (draws * sizes[:, None]).long()
        return self._losses(Rows(rows.inputs[each, drawn], rows.targets[each, drawn])).mean(1).sum()

    @torch.no_grad()
    def losses(self) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each network over the rows of its task: those to train on, and those held out."""
        found = []
        for rows, sizes, inside in (self._fit, self._held_out):
            mean = torch.where(inside, self._losses(rows), 0.0).sum(1) / sizes
            found.append(torch.where(mean.isfinite(), mean, torch.inf))
        return found[0], found[1]

    def _losses(self, rows: Rows) -> Tensor:
        stacked = [torch.stack(same) for same in zip(*(model.parameters() for model in self), strict=True)]
        x = rows.inputs
        for layer in range(0, len(stacked), 2):
            x = torch.baddbmm(stacked[layer + 1].unsqueeze(1), x, stacked[layer].mT)
            if layer < len(stacked) - 2:
                x = self._activation(x)
        return row_losses(x, rows.targets)


def train_together(
    tasks: Sequence[RowsTask],
    make_optimizers: OptimizerFactory,
    seed: int,
    marks: Sequence[int] = MARKS,
    *,
    twins: bool = False,
) -> Tensor:
    """Train one network on each task until the last mark; return its losses at the marks.

    One optimizer holds the parameters of all networks. Every parameter has its own state, so each network trains as it
    would alone.

    Returns:
        Losses of shape (2, tasks, marks): on the rows to train on, and on those held out. Infinite after a divergence.
    """
    networks = SideBySide(tasks, seed, twins=twins)
    optimizers = make_optimizers(list(networks.named_parameters()))
    found = []
    for step in range(1, marks[-1] + 1):
        networks.zero_grad()
        torch.autograd.backward(networks.batch_loss())
        for optimizer in optimizers:
            optimizer.step()
        if step in marks:
            found.append(torch.stack(networks.losses()))
    return torch.stack(found, -1)


def _padded(parts: Sequence[Rows]) -> tuple[Rows, Tensor, Tensor]:
    """Return the rows of all tasks padded with zeros, the number of rows of each, and a mask of the real ones."""
    inputs = nn.utils.rnn.pad_sequence([part.inputs for part in parts], batch_first=True)
    targets = nn.utils.rnn.pad_sequence([part.targets for part in parts], batch_first=True)
    sizes = torch.tensor([len(part.targets) for part in parts])
    return Rows(inputs, targets), sizes, torch.arange(inputs.shape[1]) < sizes[:, None]
