"""What an arm would lose if its search had missed its best trials.

A search tries few points, and the best of them may be there by luck. How much luck matters on a task shows in how far
behind the next best trials are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from search_spaces import Scalar
from search_spaces.refine import are_near

FIRST_FOUND: Final = 0.9
"""Chance that another search picks a trial near a first one, which every search tries. Of 0.8, 0.9 and 1, judged on the
tables of design of ``benchmarks/search``, it has few words without a cause and sees most differences of 10 %."""


@dataclass(frozen=True, slots=True)
class SearchLuck:
    """The best trial of a search and what would be in its place. Trials that are near each other count as one.

    Attributes:
        penalties: How much higher the cost of each is than the winner's, in the unit of the cost; the best by
            validation first, so that the first is 0. One that is below 0 was better on test.
        chances: How likely another search would find each.
    """

    penalties: Sequence[float]
    chances: Sequence[float]


def luck_of(
    trials: Sequence[tuple[Mapping[str, Scalar], float]], first_trials: Collection[Mapping[str, Scalar]]
) -> SearchLuck:
    """Return the luck of a search.

    A bootstrap of n trials holds a certain one with a chance of 1 - (1 - 1/n)^n, about 0.64.

    Args:
        trials: The values and the penalty of each completed trial, the best by validation first.
        first_trials: What every search of the arm tries.

    >>> near, far = {"lr": 0.1}, {"lr": 0.001}
    >>> luck_of([({"lr": 0.11}, 0.0), (near, 0.1), (far, 0.5)], [near])
    SearchLuck(penalties=[0.0, 0.5], chances=[0.9, 0.7037037037037037])
    """
    groups = list[list[Mapping[str, Scalar]]]()
    penalties = list[float]()
    for values, penalty in trials:
        group = next((group for group in groups if any(are_near(values, other) for other in group)), None)
        if group is None:
            groups.append([values])
            penalties.append(penalty)
        else:
            group.append(values)
    drawn = 1 - (1 - 1 / max(len(trials), 1)) ** len(trials)
    chances = [FIRST_FOUND if any(values in first_trials for values in group) else drawn for group in groups]
    return SearchLuck(penalties, chances)
