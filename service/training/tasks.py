"""The torch half of tasks and metrics: losses, scores, trivial predictors, and random batches to time steps on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.registry import import_object
from service.spec.metrics import METRICS
from service.spec.tasks import TASKS

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of an output and its target: a mean over the rows."""

ROUNDING: Final = 1e-28
"""A variance below this share of the squared mean is what rounding leaves of equal targets."""

NEXT_TO: Final = 1e-7
"""Distance of a probability to 0 or 1 up to which scikit-learn's QuantileTransformer takes it for these."""

MAX_FLOAT32: Final = 3.4028234663852886e38
"""Largest target: a float of 32 bits. An output above it is cut there, so that its squared error stays finite."""


class Score(NamedTuple):
    """A score of a part that is read in pieces.

    Attributes:
        collect: Of the output and the target of a piece: what the score needs of them, such as sums or a few numbers
            for each row. The results of all pieces are in memory at once.
        compute: Of what was collected from all pieces: the score. NaN if the score is not defined for these targets.
    """

    collect: Callable[[Tensor, Tensor], Tensor]
    compute: Callable[[Sequence[Tensor]], float]


def loss_of(task: str) -> Loss:
    """Return the loss of a task."""
    loss: Loss = import_object(TASKS[task].loss)
    return loss


def score_of(task: str, metric: str | None = None) -> Score:
    """Return the score that a run computes: of the named metric, or of the one that the task has by default."""
    score: Score = import_object(METRICS[metric or TASKS[task].metric].score)
    return score


def score_at_once(score: Score, output: Tensor, y: Tensor) -> float:
    """Return the score of a part that is not in pieces."""
    return score.compute([score.collect(output, y)])


# --- scores that are made of sums


def _total(sums: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(sums)).sum(0)


def _count_right(output: Tensor, y: Tensor) -> Tensor:
    right = output.argmax(1) == y
    return torch.stack([right.sum(), torch.tensor(right.numel(), device=y.device)]).double()


def _accuracy(counts: Sequence[Tensor]) -> float:
    right, rows = _total(counts).tolist()
    return float(right / rows)


ACCURACY: Final = Score(_count_right, _accuracy)
"""The share of the rows, or of the tokens, that are right."""


def _r2_sums(output: Tensor, y: Tensor) -> Tensor:
    """Return rows, squared errors and squared distances to the mean of the piece, then the mean of each column."""
    output, y = output.double(), y.double()
    rows, mean = torch.tensor([len(y)], dtype=torch.float64, device=y.device), y.mean(0)
    squares = torch.stack([(output - y).square().sum(), (y - mean).square().sum()])
    return torch.cat([rows, squares, mean.flatten()])


def _r2(pieces: Sequence[Tensor]) -> float:
    """Return 1 - squared errors / squared distances to the mean of each column.

    The distances are those within the pieces and those between their means. Squares of the targets themselves would
    hide a spread that is small next to the mean.
    """
    sums = torch.stack(list(pieces))
    rows, errors, within, means = sums[:, :1], sums[:, 1].sum(), sums[:, 2].sum(), sums[:, 3:]
    mean = (rows * means).sum(0) / rows.sum()
    total = within + (rows * (means - mean).square()).sum()
    return float(1 - errors / total) if total > ROUNDING * rows.sum() * mean.square().sum() else math.nan


R2_SCORE: Final = Score(_r2_sums, _r2)
"""The share of the variance, of all columns together, that is explained."""


def _solution_errors(output: Tensor, y: Tensor) -> Tensor:
    """Return the squared errors and the squares of the solution, which is the second column."""
    found, exact = output[:, 1].double(), y[:, 1].double()
    return torch.stack([(found - exact).square().sum(), exact.square().sum()])


def _closeness(sums: Sequence[Tensor]) -> float:
    errors, squares = _total(sums).tolist()
    return 1 - math.sqrt(errors / squares) if squares else math.nan


CLOSENESS: Final = Score(_solution_errors, _closeness)
"""1 minus the relative L2 error of the solution of an equation."""


# --- scores that need every row; of several columns they are the mean


def _every_row(pieces: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    rows: npt.NDArray[np.float64] = torch.cat(list(pieces)).double().cpu().numpy()
    return rows


def _absolute_errors(output: Tensor, y: Tensor) -> Tensor:
    return (output.double() - y.double()).abs()


MAE: Final = Score(_absolute_errors, lambda errors: float(_every_row(errors).mean()))
"""The mean absolute error."""

RMSE: Final = Score(_absolute_errors, lambda errors: float(np.sqrt((_every_row(errors) ** 2).mean(0)).mean()))
"""The square root of the mean squared error."""

MEDIAN_ABSOLUTE_ERROR: Final = Score(_absolute_errors, lambda errors: float(np.median(_every_row(errors), 0).mean()))
"""The median absolute error, which a few odd rows do not change."""


def _predicted(output: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y, output.argmax(1)], 1)


def _balanced_accuracy(pieces: Sequence[Tensor]) -> float:
    from sklearn.metrics import recall_score

    y, predicted = _every_row(pieces).T
    return float(recall_score(y, predicted, labels=np.unique(y), average="macro"))


BALANCED_ACCURACY: Final = Score(_predicted, _balanced_accuracy)
"""The mean over the classes of the share of their rows that are right."""


def _f1(pieces: Sequence[Tensor]) -> float:
    from sklearn.metrics import f1_score

    y, predicted = _every_row(pieces).T
    return float(f1_score(y, predicted, average="macro"))


F1: Final = Score(_predicted, _f1)
"""The mean over the classes of the harmonic mean of precision and recall."""


def _probabilities(output: Tensor, y: Tensor) -> Tensor:
    """Return the probability of each class, then the class."""
    return torch.cat([output.double().softmax(1), y[:, None].double()], 1)


def _ranked_by_class(metric: Callable[..., float], pieces: Sequence[Tensor]) -> float:
    """Return a metric of the second of two classes, or its mean over each class against the rest.

    It is not defined if a class has no rows.
    """
    rows = _every_row(pieces)
    is_class, probability = rows[:, -1:] == np.arange(rows.shape[1] - 1), rows[:, :-1]
    if not is_class.any(0).all():
        return math.nan
    if is_class.shape[1] == 2:
        return float(metric(is_class[:, 1], probability[:, 1]))
    return float(metric(is_class, probability, average="macro"))


def _roc_auc(pieces: Sequence[Tensor]) -> float:
    from sklearn.metrics import roc_auc_score

    return _ranked_by_class(roc_auc_score, pieces)


ROC_AUC: Final = Score(_probabilities, _roc_auc)
"""The area under the ROC curve: of two classes that of the second, else the mean over each class against the rest."""


def _average_precision(pieces: Sequence[Tensor]) -> float:
    from sklearn.metrics import average_precision_score

    return _ranked_by_class(average_precision_score, pieces)


AVERAGE_PRECISION: Final = Score(_probabilities, _average_precision)
"""The area under the curve of precision over recall, of the same classes as ``ROC_AUC``."""


def _log_loss(pieces: Sequence[Tensor]) -> float:
    from sklearn.metrics import log_loss

    rows = _every_row(pieces)
    return float(log_loss(rows[:, -1], rows[:, :-1], labels=np.arange(rows.shape[1] - 1)))


LOG_LOSS: Final = Score(_probabilities, _log_loss)
"""The mean of -log of the probability of the right class."""


# --- targets in their own units


def _unscaled(output: Tensor, fitted: Tensor) -> Tensor:
    return output.double() * fitted[1] + fitted[0]


def _exponential(output: Tensor, fitted: Tensor) -> Tensor:
    return _unscaled(output, fitted).expm1().clamp(max=MAX_FLOAT32)


def _at_quantile(output: Tensor, fitted: Tensor) -> Tensor:
    """Return the quantile at the probability that a standard normal variable is below the output.

    As in scikit-learn, what is next to 0 or 1 is the smallest or the largest quantile.
    """
    probability: Tensor = torch.special.ndtr(output.double().nan_to_num())
    probability = probability.where(probability >= NEXT_TO, 0.0).where(probability <= 1 - NEXT_TO, 1.0)
    place = probability * (len(fitted) - 1)
    below = place.long().clamp(max=len(fitted) - 2)
    return fitted[below] + (place - below) * (fitted[below + 1] - fitted[below])


INVERSES: Final = {"standardise": _unscaled, "log1p": _exponential, "quantile": _at_quantile}
"""Name of a target transform, and of the array that holds what it was fitted to -> what undoes it."""


def in_units(output: Tensor, data: Mapping[str, Tensor]) -> Tensor:
    """Return outputs in the units of the target; as they are if the split ``data`` holds no target transform."""
    for name, undo in INVERSES.items():
        if name in data:
            return undo(output, data[name].to(output.device))
    return output


# --- trivial predictors


class Constant(nn.Module):
    """Predicts the same for every row; ``output`` is the output for one row."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._output.to(x.device).expand(len(x), *self._output.shape)


def trivial_model(task: str, y: Tensor, outputs: int, metric: str | None = None) -> Constant | None:
    """Return what always predicts the same; None if the task has no such thing.

    Args:
        task: Name of the task.
        y: Targets of the training part.
        outputs: Outputs of a model: classes, tokens, or columns of the target.
        metric: The score that it is judged by; None for the loss.
    """
    trivial = (METRICS[metric].trivial if metric else None) or TASKS[task].trivial
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


def median_target(y: Tensor, outputs: int) -> Tensor:
    """Return the median of each column; the mean of both in the middle if there are two."""
    del outputs
    return torch.from_numpy(np.median(y.cpu().numpy(), 0)).to(y)


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
