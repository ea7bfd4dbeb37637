"""The torch half of tasks and metrics: losses, scores, trivial predictors, and random batches to time steps on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from service.registry import import_object
from service.spec.metrics import METRICS
from service.spec.tasks import TASKS

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of an output and its target: a mean over the rows."""

ROUNDING: Final = 1e-12
"""A variance below this share of the mean square is what rounding leaves of equal targets."""


class Score(NamedTuple):
    """A score that is worked out from sums over the rows, so that a part can be read in pieces.

    Attributes:
        sums: Of an output and its target: what is added up over the pieces, as numbers of 64 bits.
        from_sums: The score of all rows together; it is not finite if there is none.
    """

    sums: Callable[[Tensor, Tensor], Tensor]
    from_sums: Callable[[Tensor], Tensor]


def loss_of(task: str) -> Loss:
    """Return the loss of a task."""
    loss: Loss = import_object(TASKS[task].loss)
    return loss


def score_of(task: str, metric: str | None = None) -> Score:
    """Return the score that a run computes: of the named metric, or of the one that the task has by default."""
    score: Score = import_object(METRICS[metric or TASKS[task].metric].score)
    return score


def score_at_once(score: Score, output: Tensor, y: Tensor) -> Tensor:
    """Return the score of a part that is not in pieces."""
    return score.from_sums(score.sums(output, y))


# --- scores


def _count_right(output: Tensor, y: Tensor) -> Tensor:
    right = output.argmax(1) == y
    return torch.stack([right.sum(), torch.tensor(right.numel(), device=y.device)]).double()


ACCURACY: Final = Score(_count_right, from_sums=lambda sums: sums[0] / sums[1])
"""The share of the rows, or of the tokens, that are right."""


def _r2_sums(output: Tensor, y: Tensor) -> Tensor:
    """Return rows, squared errors and squares of all columns together, then the sum of each column."""
    output, y = output.double(), y.double()
    rows = torch.tensor([len(y)], dtype=torch.float64, device=y.device)
    squares = torch.stack([(output - y).square().sum(), y.square().sum()])
    return torch.cat([rows, squares, y.sum(0).flatten()])


def _r2(sums: Tensor) -> Tensor:
    """Return 1 - squared errors / squared distances to the mean of each column."""
    rows, errors, squares, columns = sums[0], sums[1], sums[2], sums[3:]
    total = squares - columns.square().sum() / rows
    return 1 - errors / torch.where(total > ROUNDING * squares, total, 0.0)


R2_SCORE: Final = Score(_r2_sums, _r2)
"""The share of the variance, of all columns together, that is explained."""


def _solution_errors(output: Tensor, y: Tensor) -> Tensor:
    """Return the squared errors and the squares of the solution, which is the second column."""
    found, exact = output[:, 1].double(), y[:, 1].double()
    return torch.stack([(found - exact).square().sum(), exact.square().sum()])


CLOSENESS: Final = Score(_solution_errors, from_sums=lambda sums: 1 - (sums[0] / sums[1]).sqrt())
"""1 minus the relative L2 error of the solution of an equation."""


# --- trivial predictors


class Constant(nn.Module):
    """Predicts the same for every row; ``output`` is the output for one row."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._output.to(x.device).expand(len(x), *self._output.shape)


def trivial_model(task: str, y: Tensor, outputs: int) -> Constant | None:
    """Return what always predicts the same; None if the task has no such thing.

    Args:
        task: Name of the task.
        y: Targets of the training part.
        outputs: Outputs of a model: classes, tokens, or columns of the target.
    """
    trivial = TASKS[task].trivial
    return None if trivial is None else Constant(import_object(trivial.output)(y, outputs))


def frequencies(y: Tensor, outputs: int) -> Tensor:
    """Return logits whose softmax is how frequent each class is, for each place of a row.

    A class without a row counts as one row, so that the loss of another part stays finite.
    """
    logits = torch.bincount(y.flatten(), minlength=outputs).clamp(min=1).log()
    return logits.view(-1, *[1] * (y.ndim - 1)).expand(-1, *y.shape[1:])


def mean_target(y: Tensor, outputs: int) -> Tensor:
    """Return the mean of each column."""
    del outputs
    return y.mean(0)


# --- random batches


def example_classes(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return rows of numbers, each with a class."""
    return torch.randn(rows, inputs), torch.randint(outputs, (rows,))


def example_numbers(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return rows of numbers with numbers to predict."""
    return torch.randn(rows, inputs), torch.randn(rows, outputs)


def example_inputs(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return rows of numbers to reconstruct."""
    del outputs
    x = torch.randn(rows, inputs)
    return x, x


def example_tokens(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return windows of tokens, with a token to predict at every place."""
    x = torch.randint(outputs, (rows, inputs))
    return x, x


def example_points(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return points of an equation: two coordinates and a weight, with the equation's value and the solution."""
    del inputs, outputs
    return torch.rand(rows, 3), torch.randn(rows, 2)
