"""A space is checked as a whole when it is made; afterwards it only answers questions."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from search_spaces import PRESETS, Choice, Condition, Float, Int, Parameter, Scalar, SearchSpace, SearchSpaceError

KIND = Parameter(name="kind", domain=Choice(values=("plain", "low_rank", "deep")))
RANK = Parameter(name="rank", domain=Int(low=1, high=8), when=Condition(parent="kind", values=("low_rank", "deep")))
SHAPE = Parameter(name="shape", domain=Choice(values=("a", "b")), when=Condition(parent="kind", values=("deep",)))
DEPTH = Parameter(name="depth", domain=Choice(values=(1, 2)), when=Condition(parent="shape", values=("b",)))
LR = Parameter(name="lr", domain=Float(low=0.001, high=0.1, log=True))


def space(*parameters: Parameter, first_trials: tuple[Mapping[str, Scalar], ...] = ()) -> SearchSpace:
    return SearchSpace(name="test", parameters=parameters, first_trials=first_trials)


def child(**condition: Any) -> Parameter:
    return Parameter(name="child", domain=Int(low=1, high=2), when=Condition(**condition))


FULL = space(DEPTH, RANK, LR, SHAPE, KIND)


@pytest.mark.parametrize(
    ("parameters", "path", "expected"),
    [
        ((LR, LR), "parameters", "repeats a name"),
        ((KIND, child(parent="kidn", values=("deep",))), "child.when.parent", "Did you mean 'kind'?"),
        ((LR, child(parent="lr", values=(0.01,))), "child.when.parent", "a choice, not a number from 0.001 to 0.1"),
        ((KIND, child(parent="kind", values=("flat",))), "child.when.values", "plain, low_rank, deep"),
        ((KIND, child(parent="kind", values=())), "child.when.values", "plain, low_rank, deep"),
        ((child(parent="child", values=(1,)),), "child.when.parent", "a choice"),
    ],
)
def test_space_that_makes_no_sense_is_refused(parameters: tuple[Parameter, ...], path: str, expected: str) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        space(*parameters)
    assert caught.value.path == path
    assert expected in str(caught.value)


def test_circle_of_conditions_is_refused() -> None:
    one = Parameter(name="one", domain=Choice(values=(1,)), when=Condition(parent="two", values=(1,)))
    two = Parameter(name="two", domain=Choice(values=(1,)), when=Condition(parent="one", values=(1,)))
    with pytest.raises(SearchSpaceError, match="circle"):
        space(one, two)


def test_parameter_without_name_or_domain_is_refused() -> None:
    with pytest.raises(SearchSpaceError, match=r"name: must not be empty \(got ''\)"):
        Parameter(name="", domain=Int(low=1, high=2))
    with pytest.raises(SearchSpaceError, match=r"lr\.domain: .*\(got 0\.1\)"):
        Parameter(name="lr", domain=0.1)  # type: ignore[arg-type]


def test_parents_come_before_their_children_and_else_the_order_stays() -> None:
    assert FULL.names == ("kind", "shape", "depth", "rank", "lr")
    assert [parameter.name for parameter in FULL] == list(FULL.names)
    assert len(FULL) == 5


def test_parameter_is_found_by_name() -> None:
    assert FULL["rank"] is RANK
    assert "rank" in FULL
    assert "block_size" not in FULL


def test_unknown_parameter_is_an_error_that_suggests_a_name() -> None:
    with pytest.raises(SearchSpaceError, match="Did you mean 'rank'") as caught:
        FULL["rnak"]
    assert caught.value.value == "rnak"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, ["kind", "lr"]),
        ({"kind": "plain"}, ["kind", "lr"]),
        ({"kind": "low_rank"}, ["kind", "rank", "lr"]),
        ({"kind": "deep"}, ["kind", "shape", "rank", "lr"]),
        ({"kind": "deep", "shape": "b"}, ["kind", "shape", "depth", "rank", "lr"]),
        ({"kind": "plain", "shape": "b"}, ["kind", "lr"]),
    ],
)
def test_child_is_active_only_below_an_active_parent_with_the_right_value(
    values: dict[str, Scalar], names: list[str]
) -> None:
    assert [parameter.name for parameter in FULL.active(values)] == names


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "plain", "lr": 0.01},
        {"kind": "low_rank", "rank": 8, "lr": 0.1},
        {"lr": 0.01, "depth": 1, "rank": 2, "shape": "b", "kind": "deep"},
    ],
)
def test_full_assignment_passes_in_any_order(values: dict[str, Scalar]) -> None:
    FULL.check(values)


@pytest.mark.parametrize(
    ("values", "path", "expected"),
    [
        ({}, "kind", "one of plain, low_rank, deep"),
        ({"kind": "plain"}, "lr", "a number from 0.001 to 0.1"),
        ({"kind": "flat", "lr": 0.01}, "kind", "one of plain"),
        ({"kind": "low_rank", "lr": 0.01}, "rank", "a whole number from 1 to 8"),
        ({"kind": "low_rank", "lr": 0.01, "rank": 9}, "rank", "from 1 to 8"),
        ({"kind": "low_rank", "lr": 0.01, "rank": 2.0}, "rank", "whole"),
        ({"kind": "plain", "lr": 0.01, "rank": 2}, "rank", "is only used when kind is low_rank or deep"),
        ({"kind": "plain", "lr": float("nan")}, "lr", "a number"),
        ({"kind": "plain", "lr": 0.01, "lrr": 1}, "lrr", "Did you mean 'lr'?"),
    ],
)
def test_wrong_assignment_is_refused_by_field(values: dict[str, Scalar], path: str, expected: str) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        FULL.check(values)
    assert caught.value.path == path
    assert expected in str(caught.value)


def test_first_trial_outside_of_the_space_is_refused() -> None:
    with pytest.raises(SearchSpaceError) as caught:
        space(KIND, LR, first_trials=({"kind": "plain", "lr": 0.01}, {"kind": "plain", "lr": 1.0}))
    assert caught.value.path == "first_trials[1].lr"


def test_largest_is_none_for_what_is_not_there_or_no_number() -> None:
    assert FULL.largest("rank") == 8
    assert FULL.largest("depth") == 2
    assert FULL.largest("block_size") is None
    assert FULL.largest("kind") is None


def test_space_cannot_be_changed() -> None:
    given: dict[str, Scalar] = {"lr": 0.01}
    fixed = space(LR, first_trials=(given,))
    given["lr"] = 5.0
    with pytest.raises(FrozenInstanceError):
        fixed.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        fixed.first_trials[0]["lr"] = 5.0  # type: ignore[index]
    assert fixed.first_trials[0]["lr"] == 0.01


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_space_survives_the_way_between_processes(preset: SearchSpace) -> None:
    copy = pickle.loads(pickle.dumps(preset))
    assert copy == preset
    assert hash(copy) == hash(preset)


ONE_KIND = Parameter(name="kind", domain=Choice(values=("plain",)))
ONE_LR = Parameter(name="lr", domain=Float(low=0.01, high=0.01))
ONE_WIDTH = Parameter(name="width", domain=Int(low=3, high=3))


@pytest.mark.parametrize(
    ("parameters", "one"),
    [
        ((), True),
        ((ONE_KIND, ONE_LR, ONE_WIDTH), True),
        ((ONE_KIND, LR), False),
        ((KIND,), False),
        ((KIND, RANK), False),
        (
            (ONE_KIND, Parameter(name="rank", domain=RANK.domain, when=Condition(parent="kind", values=("plain",)))),
            False,
        ),
    ],
)
def test_a_space_has_one_point_if_every_parameter_has_one_value(parameters: tuple[Parameter, ...], one: bool) -> None:
    assert space(*parameters).has_one_point is one
