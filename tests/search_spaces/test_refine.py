from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import PRESETS, Choice, Float, Int, Parameter, Scalar, SearchSpace, apply_overrides, get_preset
from search_spaces.refine import at_edge, refinement

SGD = get_preset("sgd")


def sgd(lr: float, weight_decay: float = 0.0, momentum: float = 0.9) -> dict[str, Scalar]:
    return {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}


def all_refinements(space: SearchSpace, best: dict[str, Scalar]) -> list[dict[str, Scalar]]:
    tried = [best]
    while (near := refinement(space, [best], tried)) is not None:
        tried.append(near)
    return tried[1:]


def test_a_higher_lr_comes_first_then_a_lower_one_then_the_other_weight_decays_from_the_largest_on() -> None:
    found = all_refinements(SGD, sgd(0.1, 1e-3))
    assert [round(float(values["lr"]), 3) for values in found] == [0.178, 0.056, 0.1, 0.1, 0.1]
    assert [values["weight_decay"] for values in found] == [1e-3, 1e-3, 1e-2, 1e-4, 0.0]


def test_what_was_tried_nearby_is_not_tried_again() -> None:
    best = sgd(0.1)
    near = refinement(SGD, [best], [best, sgd(0.17)])
    assert near is not None
    assert near["lr"] == pytest.approx(0.0562, rel=1e-2)


def test_the_same_lr_with_another_momentum_is_something_else() -> None:
    best = sgd(0.1)
    assert refinement(SGD, [best], [best, sgd(0.178, momentum=0.0)]) == pytest.approx(sgd(0.1778), rel=1e-3)


def test_the_second_best_is_next_when_all_around_the_best_was_tried() -> None:
    best, second = sgd(0.1), sgd(0.003, momentum=0.99)
    tried = [best, second, *all_refinements(SGD, best)]
    near = refinement(SGD, [best, second], tried)
    assert near is not None
    assert near["momentum"] == 0.99


def test_at_the_end_of_the_range_only_the_way_back_is_left() -> None:
    lrs = [values["lr"] for values in all_refinements(SGD, sgd(1.0)) if values["weight_decay"] == 0.0]
    assert lrs == [pytest.approx(0.5623, rel=1e-3)]


def test_nothing_is_left_of_a_space_without_freedom() -> None:
    fixed = apply_overrides(SGD, {"lr": 0.1, "weight_decay": 0.0})
    assert refinement(fixed, [sgd(0.1)], [sgd(0.1)]) is None
    assert refinement(SGD, [], []) is None


@pytest.mark.parametrize("lr", [{"low": 0, "high": 0.1, "log": False}, Choice(values=(0.0, 0.02, 0.04))])
def test_an_lr_of_zero_is_not_tried(lr: Any) -> None:
    domain = lr if isinstance(lr, Choice) else apply_overrides(SGD, {"lr": lr})["lr"].domain
    decay = Parameter(name="weight_decay", domain=Float(low=0.0, high=0.1))
    space = SearchSpace(name="mine", parameters=(Parameter(name="lr", domain=domain), decay))
    found = all_refinements(space, {"lr": 0.02, "weight_decay": 0.02})
    assert {values["lr"] for values in found} == {0.02, 0.045 if not isinstance(lr, Choice) else 0.04}
    assert {values["weight_decay"] for values in found} == {0.02, 0.045, 0.0}


def test_a_linear_range_and_a_range_of_whole_numbers_are_refined_too() -> None:
    lr = Parameter(name="lr", domain=Float(low=0.0, high=1.0))
    decay = Parameter(name="weight_decay", domain=Int(low=0, high=8))
    space = SearchSpace(name="mine", parameters=(lr, decay))
    found = all_refinements(space, {"lr": 0.5, "weight_decay": 4})
    assert found == [
        {"lr": 0.75, "weight_decay": 4},
        {"lr": 0.25, "weight_decay": 4},
        {"lr": 0.5, "weight_decay": 6},
        {"lr": 0.5, "weight_decay": 2},
    ]


@given(st.sampled_from(sorted(PRESETS)), st.data())
def test_every_refinement_is_legal_and_new(name: str, data: st.DataObject) -> None:
    space = get_preset(name)
    best = data.draw(st.sampled_from([dict(values) for values in space.first_trials]))
    for near in all_refinements(space, best):
        space.check(near)
        assert near != best


@pytest.mark.parametrize(
    ("lr", "end"),
    [(1e-3, "lower"), (1.3e-3, "lower"), (1.4e-3, None), (0.1, None), (0.8, "upper"), (1.0, "upper")],
)
def test_an_lr_within_half_a_step_of_an_end_is_at_the_edge(lr: float, end: str | None) -> None:
    assert at_edge(SGD, sgd(lr)) == end


@pytest.mark.parametrize(("lr", "end"), [(0.01, "lower"), (0.1, None), (0.2, "upper")])
def test_the_ends_of_a_list_are_its_lowest_and_its_highest_lr(lr: float, end: str | None) -> None:
    assert at_edge(apply_overrides(SGD, {"lr": [0.1, 0.01, 0.2]}), sgd(lr)) == end


def test_an_lr_that_cannot_vary_is_at_no_edge() -> None:
    assert at_edge(apply_overrides(SGD, {"lr": 0.1}), sgd(0.1)) is None
    assert at_edge(apply_overrides(SGD, {"lr": [0.1]}), sgd(0.1)) is None
    assert (
        at_edge(SearchSpace(name="none", parameters=(Parameter(name="x", domain=Choice(values=(1,))),)), {"x": 1})
        is None
    )
