# The three kinds of values a parameter can take, checked when they are made. They know no sampler and no optimizer;
# which parameter has which domain is in space.py.
"""Domains of parameters: a range of numbers, a range of whole numbers, or a choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeGuard

from search_spaces.errors import SearchSpaceError

Scalar: TypeAlias = str | int | float | bool
"""One value of a parameter: what JSON and every sampler can hold."""

MAX_WHOLE: Final = 2**53
"""Largest whole number that a sampler, which counts in float64, can still tell from its neighbours."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether ``value`` is a finite number; a bool is none.

    >>> is_number(0.5), is_number(True), is_number(float("nan"))
    (True, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_WHOLE if isinstance(value, int) else math.isfinite(value)


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether ``value`` is an int that a sampler can hold; a bool is none."""
    return isinstance(value, int) and is_number(value)


def is_scalar(value: object) -> TypeGuard[Scalar]:
    """Tell whether ``value`` can be one value of a parameter."""
    return isinstance(value, bool | str) or is_number(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Float:
    """A range of real numbers, both ends included.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Sample evenly in the logarithm.

    Raises:
        SearchSpaceError: An end is not finite, ``low`` > ``high``, or ``log`` with ``low`` <= 0.

    >>> Float(low=0.001, high=0.1, log=True).contains(0.01)
    True
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        for end in ("low", "high"):
            value = getattr(self, end)
            if not is_number(value):
                raise SearchSpaceError(end, value, "a finite number")
            object.__setattr__(self, end, float(value))
        _check_range(self)

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    @property
    def largest(self) -> float:
        """The largest value."""
        return self.high

    def contains(self, value: object) -> bool:
        """Tell whether ``value`` is a number within the range."""
        return is_number(value) and self.low <= value <= self.high

    def nearest(self, value: Scalar) -> float:
        """Return the value of the domain that is nearest to ``value``; ``low`` if that is not a number."""
        return float(min(max(value, self.low), self.high)) if is_number(value) else self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Int:
    """A range of whole numbers, both ends included.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Sample evenly in the logarithm.

    Raises:
        SearchSpaceError: An end is not an int, ``low`` > ``high``, or ``log`` with ``low`` <= 0.

    >>> Int(low=1, high=16).contains(2.0)
    False
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        for end in ("low", "high"):
            if not is_whole(getattr(self, end)):
                raise SearchSpaceError(end, getattr(self, end), "a whole number of at most 2**53")
        _check_range(self)

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    @property
    def largest(self) -> float:
        """The largest value."""
        return float(self.high)

    def contains(self, value: object) -> bool:
        """Tell whether ``value`` is an int within the range."""
        return is_whole(value) and self.low <= value <= self.high

    def nearest(self, value: Scalar) -> int:
        """Return the value of the domain that is nearest to ``value``; ``low`` if that is not a number."""
        return round(min(max(value, self.low), self.high)) if is_number(value) else self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A few values to choose from, in no particular order; one value alone is a fixed value.

    Attributes:
        values: The values, all different.

    Raises:
        SearchSpaceError: No value, two equal values (1 and 1.0 and True are equal), or one that is neither text, a bool
            nor a finite number.

    >>> Choice(values=(0.9, 0.95)).nearest(1.0)
    0.95
    """

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _as_tuple(self.values))
        for position, value in enumerate(self.values):
            if not is_scalar(value):
                raise SearchSpaceError(f"[{position}]", value, "text, true, false or a finite number")
            if value in self.values[:position]:
                raise SearchSpaceError(f"[{position}]", value, "each value once")

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}" if len(self.values) > 1 else f"{self.values[0]}"

    @property
    def largest(self) -> float | None:
        """The largest number among the values, None if there is none."""
        return max((float(value) for value in self.values if is_number(value)), default=None)

    def contains(self, value: object) -> bool:
        """Tell whether ``value`` is one of the values; an int may stand for an equal float, as JSON writes it."""
        return any(_is_same(value, own) for own in self.values)

    def nearest(self, value: Scalar) -> Scalar:
        """Return the value itself if it is here, else the nearest number, else the first value."""
        if self.contains(value):
            return next(own for own in self.values if _is_same(value, own))
        numbers = [own for own in self.values if is_number(own)]
        return min(numbers, key=lambda own: abs(own - value)) if numbers and is_number(value) else self.values[0]


Domain: TypeAlias = Float | Int | Choice
"""What a parameter can be."""


def _as_tuple(values: object) -> tuple[object, ...]:
    if not isinstance(values, tuple | list) or not values:
        raise SearchSpaceError("values", values, "a tuple of at least one value")
    return tuple(values)


def _check_range(range_: Float | Int) -> None:
    if not isinstance(range_.log, bool):
        raise SearchSpaceError("log", range_.log, "true or false")
    if range_.low > range_.high:
        raise SearchSpaceError("low", range_.low, f"at most the high end, {range_.high:g}")
    if range_.log and range_.low <= 0:
        raise SearchSpaceError("low", range_.low, "a number > 0, as the range is logarithmic (or log: false)")


def _is_same(value: object, own: Scalar) -> bool:
    if isinstance(own, float):
        return is_number(value) and value == own
    kind = bool if isinstance(own, bool) else int if isinstance(own, int) else str
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) and value == own
