"""Domains: the values that a parameter can take.

There are three: a range of real numbers, a range of whole numbers, and a choice from a few values. Each is checked when
it is made. ``space.py`` says which parameter has which domain; ``to_optuna.py`` samples from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeGuard

from search_spaces.errors import SearchSpaceError

Scalar: TypeAlias = str | int | float | bool
"""One value of a parameter: a type that JSON and every sampler can hold."""

MAX_WHOLE: Final = 2**53
"""Largest whole number. Samplers compute in float64, which cannot tell larger ones from their neighbours."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether ``value`` is a finite number. A bool does not count as a number.

    >>> is_number(0.5), is_number(True), is_number(float("nan"))
    (True, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_WHOLE if isinstance(value, int) else math.isfinite(value)


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether ``value`` is an int that a sampler can hold. A bool does not count as an int."""
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
                raise SearchSpaceError(end, value, "must be a finite number")
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
        """Return the value of the range that is nearest to ``value``; ``low`` if ``value`` is not a number."""
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
                raise SearchSpaceError(end, getattr(self, end), "must be a whole number of at most 2**53")
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
        """Return the value of the range that is nearest to ``value``; ``low`` if ``value`` is not a number."""
        return round(min(max(value, self.low), self.high)) if is_number(value) else self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A few values to choose from. Their order has no meaning; a single value is fixed.

    Attributes:
        values: The values, all different.

    Raises:
        SearchSpaceError: There is no value, two values are equal (1, 1.0 and True are), or a value is not text, a bool
            or a finite number.

    >>> Choice(values=(0.9, 0.95)).nearest(1.0)
    0.95
    """

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _as_tuple(self.values))
        for position, value in enumerate(self.values):
            if not is_scalar(value):
                raise SearchSpaceError(f"[{position}]", value, "must be text, true, false or a finite number")
            if value in self.values[:position]:
                raise SearchSpaceError(f"[{position}]", value, "repeats a value; each may occur once")

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}" if len(self.values) > 1 else f"{self.values[0]}"

    @property
    def largest(self) -> float | None:
        """The largest number among the values; None if no value is a number."""
        return max((float(value) for value in self.values if is_number(value)), default=None)

    def contains(self, value: object) -> bool:
        """Tell whether ``value`` is one of the values. An int matches an equal float, because JSON may write it so."""
        return any(_is_same(value, own) for own in self.values)

    def nearest(self, value: Scalar) -> Scalar:
        """Return ``value`` if it is one of the values, else the nearest number, else the first value."""
        if self.contains(value):
            return next(own for own in self.values if _is_same(value, own))
        numbers = [own for own in self.values if is_number(own)]
        return min(numbers, key=lambda own: abs(own - value)) if numbers and is_number(value) else self.values[0]


Domain: TypeAlias = Float | Int | Choice
"""Any of the three."""


def _as_tuple(values: object) -> tuple[object, ...]:
    if not isinstance(values, tuple | list) or not values:
        raise SearchSpaceError("values", values, "must be a tuple of at least one value")
    return tuple(values)


def _check_range(range_: Float | Int) -> None:
    if not isinstance(range_.log, bool):
        raise SearchSpaceError("log", range_.log, "must be true or false")
    if range_.low > range_.high:
        raise SearchSpaceError("low", range_.low, f"must be at most the high end, {range_.high:g}")
    if range_.log and range_.low <= 0:
        raise SearchSpaceError(
            "low", range_.low, "must be above 0 in a logarithmic range", "Raise it, or set log: false."
        )


def _is_same(value: object, own: Scalar) -> bool:
    if isinstance(own, float):
        return is_number(value) and value == own
    kind = bool if isinstance(own, bool) else int if isinstance(own, int) else str
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) and value == own
