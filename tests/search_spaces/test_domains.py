"""The three domains: what they refuse, what they contain, and their nearest values."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import Choice, Domain, Float, Int, Scalar, SearchSpaceError
from search_spaces.domains import MAX_WHOLE, is_number

FLOATS = st.floats(-1e6, 1e6)
INTS = st.integers(-1000, 1000)
SCALARS = st.one_of(FLOATS, INTS, st.text(max_size=3), st.booleans())


@pytest.mark.parametrize(
    ("kind", "arguments", "path", "expected"),
    [
        (Float, {"low": 2.0, "high": 1.0}, "low", "at most the high end, 1"),
        (Float, {"low": 0.0, "high": 1.0, "log": True}, "low", "above 0"),
        (Float, {"low": -1.0, "high": 1.0, "log": True}, "low", "logarithmic"),
        (Float, {"low": math.nan, "high": 1.0}, "low", "finite"),
        (Float, {"low": 0.0, "high": math.inf}, "high", "finite"),
        (Float, {"low": 0.0, "high": 10**400}, "high", "finite"),
        (Float, {"low": "0", "high": 1.0}, "low", "finite number"),
        (Float, {"low": True, "high": 2.0}, "low", "finite number"),
        (Float, {"low": 0.0, "high": 1.0, "log": 1}, "log", "true or false"),
        (Int, {"low": 3, "high": 2}, "low", "at most the high end, 2"),
        (Int, {"low": 0, "high": 8, "log": True}, "low", "above 0"),
        (Int, {"low": 1.0, "high": 8}, "low", "whole"),
        (Int, {"low": False, "high": 8}, "low", "whole"),
        (Int, {"low": 1, "high": MAX_WHOLE + 1}, "high", "2**53"),
        (Int, {"low": 1, "high": 8, "log": None}, "log", "true or false"),
        (Choice, {"values": ()}, "values", "at least one"),
        (Choice, {"values": "abc"}, "values", "tuple"),
        (Choice, {"values": (1.0, math.nan)}, "[1]", "finite"),
        (Choice, {"values": (None,)}, "[0]", "text"),
        (Choice, {"values": ((1, 2),)}, "[0]", "text"),
        (Choice, {"values": (1, 2, 1)}, "[2]", "once"),
        (Choice, {"values": (1, 1.0)}, "[1]", "once"),
        (Choice, {"values": (True, 1)}, "[1]", "once"),
    ],
)
def test_senseless_domain_is_refused(kind: type[Domain], arguments: dict[str, Any], path: str, expected: str) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        kind(**arguments)
    assert caught.value.path == path
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Float(low=0.1, high=1), [0.1, 0.5, 1, 1.0], [0.09, 1.1, math.nan, math.inf, True, "0.5", None]),
        (Int(low=1, high=8), [1, 8], [0, 9, 2.0, True, "2", None]),
        (Choice(values=(0.0, 0.1)), [0.0, 0, 0.1], [0.2, False, "0.1", None]),
        (Choice(values=(1, 4)), [1, 4], [1.0, 3, True, "1", None]),
        (Choice(values=(True, "a")), [True, "a"], [1, False, "b", None]),
    ],
)
def test_domain_contains_only_values_of_its_kind_and_range(
    domain: Domain, inside: list[object], outside: list[object]
) -> None:
    assert [value for value in inside if not domain.contains(value)] == []
    assert [value for value in outside if domain.contains(value)] == []


@pytest.mark.parametrize(
    ("domain", "value", "nearest"),
    [
        (Float(low=0.1, high=1.0), 0.5, 0.5),
        (Float(low=0.1, high=1.0), 7, 1.0),
        (Float(low=0.1, high=1.0), "text", 0.1),
        (Int(low=2, high=8), 1, 2),
        (Int(low=2, high=8), 3.6, 4),
        (Choice(values=(0.9, 0.95)), 0.94, 0.95),
        (Choice(values=(0.0, 1.0)), 1, 1.0),
        (Choice(values=("a", "b")), "b", "b"),
        (Choice(values=("a", "b")), 3, "a"),
        (Choice(values=("a", 1, 9)), 7, 9),
    ],
)
def test_nearest_value_is_the_closest_one(domain: Domain, value: Scalar, nearest: Scalar) -> None:
    assert domain.nearest(value) == nearest
    assert type(domain.nearest(value)) is type(nearest)


@settings(deadline=None)
@given(st.tuples(FLOATS, FLOATS).map(sorted), SCALARS)
def test_nearest_number_is_always_inside(ends: list[float], value: Scalar) -> None:
    domain = Float(low=ends[0], high=ends[1])
    assert domain.contains(domain.nearest(value))
    if is_number(value) and domain.contains(value):
        assert domain.nearest(value) == value


@settings(deadline=None)
@given(st.tuples(INTS, INTS).map(sorted), SCALARS)
def test_nearest_whole_number_is_always_inside(ends: list[int], value: Scalar) -> None:
    domain = Int(low=ends[0], high=ends[1])
    assert domain.contains(domain.nearest(value))


@settings(deadline=None)
@given(st.lists(SCALARS, min_size=1, max_size=4, unique=True), SCALARS)
def test_nearest_choice_is_always_one_of_them(values: list[Scalar], value: Scalar) -> None:
    domain = Choice(values=tuple(values))
    assert domain.contains(domain.nearest(value))


def test_largest_is_the_largest_number_of_any_domain() -> None:
    assert Float(low=0, high=2).largest == 2
    assert Int(low=1, high=8).largest == 8
    assert Choice(values=(4, 16, 8)).largest == 16
    assert Choice(values=("a", True)).largest is None


def test_lists_become_tuples_and_ends_of_a_float_become_floats() -> None:
    assert Choice(values=[1, 2]) == Choice(values=(1, 2))  # type: ignore[arg-type]
    assert type(Float(low=1, high=2).low) is float
