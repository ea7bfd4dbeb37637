"""Finds the best point of a learning curve, and keeps the weights that the model had there.

A single point can be low by luck, above all with a large learning rate. So a point counts together with its neighbours.
Points of equal cost, such as equal accuracy, are ranked by their loss.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import nn

NEIGHBOURS: Final = 2
"""Points on either side that count with a point: with 40 points, an eighth of the run in all."""

Cost = tuple[float, float]
"""What a point is ranked by: its cost, and its loss, which decides between equal costs."""


def mean_cost(costs: Iterable[float]) -> float:
    """Return the mean to 12 digits, so that rounding does not tell equal means apart.

    >>> mean_cost([0.1, 0.1, 0.1]) == mean_cost([0.1, 0.1])
    True
    """
    return float(f"{fmean(costs):.12g}")


def smoothed(costs: Sequence[float]) -> list[float]:
    """Return the mean of each cost and its neighbours on both sides, as far as there are any.

    >>> smoothed([6.0, 3.0, 0.0, 1.0])
    [3.0, 2.5, 2.5, 1.33333333333]
    """
    return [mean_cost(costs[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1]) for index in range(len(costs))]


def smoothed_pairs(costs: Sequence[Cost]) -> list[Cost]:
    """Return smoothed costs, each with its smoothed loss."""
    return list(zip(smoothed([cost for cost, _ in costs]), smoothed([loss for _, loss in costs]), strict=True))


def best_index(costs: Sequence[Cost]) -> int:
    """Return the index of the lowest smoothed cost; of equal ones that of the lowest smoothed loss, then the first.

    >>> best_index([(9.0, 1.0), (0.0, 1.0), (9.0, 1.0), (9.0, 1.0), (3.0, 1.0), (3.0, 1.0), (3.0, 1.0)])
    6
    >>> best_index([(0.5, 0.9), (0.5, 0.8), (0.5, 0.6), (0.5, 0.3)])
    3
    """
    means = smoothed_pairs(costs)
    return means.index(min(means))


def is_out_of_patience(patience: int | None, steps: Sequence[int], costs: Sequence[Cost]) -> bool:
    """Tell whether a run has gone on for ``patience`` steps since its best point; never if that is None.

    Args:
        patience: Steps.
        steps: Step of each point so far.
        costs: Cost and loss of each point so far.
    """
    return patience is not None and steps[-1] - steps[best_index(costs)] >= patience


def _copied(value: Any) -> Any:
    """Return a copy of an entry of a state dict: a tensor, or what ``get_extra_state`` of a module returned."""
    return value.detach().clone() if hasattr(value, "detach") else copy.deepcopy(value)


class BestWeights:
    """Keeps the weights of a model at the best point so far, by the same rule as :func:`best_index`.

    It holds copies of the weights of the best point, and of the last three, which are judged once their neighbours are
    known.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._costs: list[Cost] = []
        self._recent: deque[dict[str, Any]] = deque(maxlen=NEIGHBOURS + 1)
        self._best: dict[str, Any] = {}
        self._lowest = (math.inf, math.inf)

    def add(self, cost: Cost) -> None:
        """Add the point that the model is at now, with its cost and loss, which must be finite."""
        self._costs.append(cost)
        self._recent.append({name: _copied(value) for name, value in self._model.state_dict().items()})
        if len(self._recent) > NEIGHBOURS:
            self._judge(len(self._costs) - 1 - NEIGHBOURS)

    def restore(self) -> None:
        """Give the model the weights of the best point. All points have been added."""
        for index in range(max(0, len(self._costs) - NEIGHBOURS), len(self._costs)):
            self._judge(index)
        self._model.load_state_dict(self._best)

    def _judge(self, index: int) -> None:
        mean = smoothed_pairs(self._costs)[index]
        if mean < self._lowest:
            self._lowest, self._best = mean, self._recent[index - len(self._costs)]

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        return {"costs": self._costs, "recent": list(self._recent), "best": self._best, "lowest": self._lowest}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was called."""
        self._costs, self._best, self._lowest = list(saved["costs"]), saved["best"], saved["lowest"]
        self._recent.extend(saved["recent"])
