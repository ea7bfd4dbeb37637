"""Scores of a model on rows that may come in pieces: accuracy, R2, closeness to a solution. 1 is perfect.

A score is ``1 - error / scale``. The error is summed over the pieces; the scale depends on the targets alone, so it is
found once for each part of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from service.data.catalog import Task
from service.training.models import LOSSES


class Score(NamedTuple):
    """A score.

    Attributes:
        error: From outputs and targets of some rows to the sum of their errors.
        scale: From the targets of all rows, in pieces, to a number in float64.
        root: Whether the score is ``1 - sqrt(error / scale)``.
    """

    error: Callable[[Tensor, Tensor], Tensor]
    scale: Callable[[Sequence[Tensor]], Tensor]
    root: bool = False

    def value(self, error: Tensor, scale: Tensor) -> float | None:
        """Return the score; None if it is not finite, as R2 is if all targets are equal."""
        share = error / scale
        score = 1 - (share.sqrt() if self.root else share)
        return score.item() if score.isfinite() else None


def _count(y: Sequence[Tensor]) -> Tensor:
    return torch.tensor(sum(piece.numel() for piece in y), dtype=torch.float64, device=y[0].device)


def _squared_deviation(y: Sequence[Tensor]) -> Tensor:
    """Return the squared error that is left when the mean of each column is predicted."""
    mean = sum(piece.double().sum(0) for piece in y) / sum(map(len, y))
    return torch.stack([(piece.double() - mean).square().sum() for piece in y]).sum()


def _squared_solution(y: Sequence[Tensor]) -> Tensor:
    return torch.stack([piece[:, 1].double().square().sum() for piece in y]).sum()


ACCURACY: Final = Score(lambda output, y: (output.argmax(1) != y).sum(), _count)
"""Share of the rows, or of the tokens of a text, that are right."""

R2: Final = Score(lambda output, y: functional.mse_loss(output, y, reduction="sum"), _squared_deviation)
"""Share of the variance of all columns together that is explained."""

CLOSENESS: Final = Score(lambda output, y: (output - y)[:, 1].double().square().sum(), _squared_solution, root=True)
"""1 minus the relative L2 error of an equation's solution."""

SCORES: Final[Mapping[Task, Score]] = {
    Task.CLASSIFICATION: ACCURACY,
    Task.REGRESSION: R2,
    Task.AUTOENCODING: R2,
    Task.LANGUAGE: ACCURACY,
    Task.PHYSICS: CLOSENESS,
}


@torch.no_grad()
def evaluate(
    model: Callable[[Tensor], Tensor], task: Task, pieces: Iterable[tuple[Tensor, Tensor]], rows: int, scale: Tensor
) -> tuple[float, float | None]:
    """Return the loss and the score of a model on ``rows`` inputs and targets that come in pieces.

    Args:
        model: From inputs to outputs.
        task: What the model is trained for.
        pieces: The inputs and targets.
        rows: Number of rows of all pieces.
        scale: The scale of the score, of all targets.
    """
    loss, error = torch.zeros_like(scale), torch.zeros_like(scale)
    for x, y in pieces:
        output = model(x)
        loss += len(x) / rows * LOSSES[task](output, y).double()
        error += SCORES[task].error(output, y)
    return loss.item(), SCORES[task].value(error, scale)
