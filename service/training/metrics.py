"""The torch half of the metrics: scores of a model on a part of the data that may be too large for one batch."""

from __future__ import annotations

from typing import Final, Protocol

import torch
from torch import Tensor

ROUNDING: Final = 1e-12
"""A variance below this share of the mean square is what rounding leaves of equal targets."""


class Score(Protocol):
    """A score that is worked out from sums over the rows, so that a part can be read in pieces."""

    def sums(self, output: Tensor, y: Tensor) -> Tensor:
        """Return what is added up over the pieces, as numbers of 64 bits."""

    def from_sums(self, sums: Tensor) -> Tensor:
        """Return the score of all rows together; it is not finite if there is none."""


def score_at_once(score: Score, output: Tensor, y: Tensor) -> Tensor:
    """Return the score of a part that is not in pieces."""
    return score.from_sums(score.sums(output, y))


class Accuracy:
    """The share of the rows, or of the tokens, that are right."""

    def sums(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the right ones, and all."""
        right = output.argmax(1) == y
        return torch.stack([right.sum(), torch.tensor(right.numel(), device=y.device)]).double()

    def from_sums(self, sums: Tensor) -> Tensor:
        """Return the share."""
        return sums[0] / sums[1]


class R2:
    """The share of the variance, of all columns together, that is explained."""

    def sums(self, output: Tensor, y: Tensor) -> Tensor:
        """Return rows, squared errors and squares of all columns together, then the sum of each column."""
        output, y = output.double(), y.double()
        rows = torch.tensor([len(y)], dtype=torch.float64, device=y.device)
        squares = torch.stack([(output - y).square().sum(), y.square().sum()])
        return torch.cat([rows, squares, y.sum(0).flatten()])

    def from_sums(self, sums: Tensor) -> Tensor:
        """Return 1 - squared errors / squared distances to the mean of each column."""
        rows, errors, squares, columns = sums[0], sums[1], sums[2], sums[3:]
        total = squares - columns.square().sum() / rows
        return 1 - errors / torch.where(total > ROUNDING * squares, total, 0.0)


class Closeness:
    """1 minus the relative L2 error of the solution of an equation."""

    def sums(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the squared errors and the squares of the solution, which is the second column."""
        found, exact = output[:, 1].double(), y[:, 1].double()
        return torch.stack([(found - exact).square().sum(), exact.square().sum()])

    def from_sums(self, sums: Tensor) -> Tensor:
        """Return 1 - the relative error."""
        return 1 - (sums[0] / sums[1]).sqrt()


ACCURACY: Final = Accuracy()
R2_SCORE: Final = R2()
CLOSENESS: Final = Closeness()
