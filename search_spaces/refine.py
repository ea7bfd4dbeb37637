"""Points around the best ones, which the last trials of a search try: a little more or less lr, another weight decay.

A sampler that draws all values anew seldom tries just that. On small tables a quarter of the trials spent so halves the
distance to the best of a dense grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from search_spaces.domains import Choice, Domain, Scalar, is_number
from search_spaces.space import SearchSpace

REFINED: Final = ("lr", "weight_decay")
"""What is changed, one at a time: the two values of every optimizer that matter most."""

STEPS_PER_DECADE: Final = 4
"""Steps in a decade of a logarithmic range, and in the whole of another one."""

BEST: Final = 3
"""Around so many of the best trials."""

KIND: Final = ("strategy", "beta1", "beta2", "momentum")
"""What makes an assignment another one, besides its lr."""


def refinement(
    space: SearchSpace, best_first: Sequence[Mapping[str, Scalar]], tried: Sequence[Mapping[str, Scalar]]
) -> dict[str, Scalar] | None:
    """Return a point next to one of the best that is unlike all that were tried; None if there is none left.

    An lr of 0 trains nothing and is left out.

    Args:
        space: The space of all of them.
        best_first: The assignments of completed trials, best first.
        tried: The assignments of all trials.

    >>> from search_spaces import get_preset
    >>> space = get_preset("sgd")
    >>> best = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    >>> round(refinement(space, [best], [best])["lr"], 3)
    0.178
    """
    for values in best_first[:BEST]:
        for near in _neighbours(space, values):
            if near.get("lr") != 0 and not any(_alike(space, near, other) for other in tried):
                return near
    return None


def at_edge(space: SearchSpace, values: Mapping[str, Scalar]) -> str | None:
    """Return which end of its range the lr of an assignment is at, such as "lower" or "upper"; None if at neither.

    The ends of a list are its lowest and its highest number. An lr with one value is fixed, and at neither.

    >>> from search_spaces import get_preset
    >>> at_edge(get_preset("sgd"), {"lr": 0.9, "momentum": 0.9, "weight_decay": 0.0})
    'upper'
    """
    domain = space["lr"].domain if "lr" in space else None
    if isinstance(domain, Choice):
        numbers = [value for value in domain.values if is_number(value)]
        if len(numbers) < 2 or values["lr"] not in (min(numbers), max(numbers)):
            return None
        return "lower" if values["lr"] == min(numbers) else "upper"
    if domain is None or domain.low == domain.high:
        return None
    place, low, high = (_position(domain, value) for value in (values["lr"], domain.low, domain.high))
    if place - low < 0.5:
        return "lower"
    return "upper" if high - place < 0.5 else None


def are_near(one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> bool:
    """Tell whether two assignments are of one kind and their lr at most a step apart.

    A search that had missed one of them would hardly have found the other: samplers try points next to good ones.

    >>> are_near({"lr": 0.1, "momentum": 0.9}, {"lr": 0.17, "momentum": 0.9, "weight_decay": 0.1})
    True
    """
    if any(one.get(name) != other.get(name) for name in KIND):
        return False
    lr, other_lr = (float(values.get("lr", 1.0)) for values in (one, other))
    if not lr or not other_lr:  # 0 has no logarithm, and is near itself only
        return lr == other_lr
    return abs(STEPS_PER_DECADE * (math.log10(lr) - math.log10(other_lr))) < 1.05


def _neighbours(space: SearchSpace, values: Mapping[str, Scalar]) -> Iterator[dict[str, Scalar]]:
    for name in REFINED:
        if name not in values:
            continue
        domain, value = space[name].domain, values[name]
        if isinstance(domain, Choice):
            numbers = sorted((other for other in domain.values if isinstance(other, int | float)), reverse=True)
            yield from ({**values, name: other} for other in numbers if other != value)
        else:
            place = _position(domain, value)
            yield from ({**values, name: _value(domain, place + step)} for step in (1, -1))


def _alike(space: SearchSpace, one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> bool:
    """Tell whether two assignments differ by less than half a step in what is refined, and in nothing else."""
    if one.keys() != other.keys():
        return False
    for name, value in one.items():
        domain = space[name].domain
        if name not in REFINED or isinstance(domain, Choice):
            if value != other[name]:
                return False
        elif abs(_position(domain, value) - _position(domain, other[name])) >= 0.5:
            return False
    return True


def _position(domain: Domain, value: Scalar) -> float:
    """Return where a value lies in a range, counted in steps."""
    assert not isinstance(domain, Choice), "a choice has no steps"
    if domain.log:
        return STEPS_PER_DECADE * math.log10(float(value))
    return STEPS_PER_DECADE * (float(value) - domain.low) / ((domain.high - domain.low) or 1)


def _value(domain: Domain, position: float) -> Scalar:
    """Return the value at a position of a range, or the end of the range if it lies outside."""
    assert not isinstance(domain, Choice), "a choice has no steps"
    if domain.log:
        value = 10 ** (position / STEPS_PER_DECADE)
    else:
        value = domain.low + position * (domain.high - domain.low) / STEPS_PER_DECADE
    return domain.nearest(value)
