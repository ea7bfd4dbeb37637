"""What holds for every assignment and every override, drawn by hypothesis."""

from __future__ import annotations

import json
import re
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    PRESETS,
    Choice,
    Domain,
    Int,
    Scalar,
    SearchSpace,
    SearchSpaceError,
    adamw_config,
    apply_overrides,
    describe,
    get_preset,
    warpadam_config,
)
from search_spaces.strategies import FACETS, is_used
from search_spaces.to_optuna import distributions, suggest
from warpadam.config import LIMITS, STRATEGIES, WarpAdamConfig

OURS = [name for name, space in PRESETS.items() if "strategy" in space]
LEGAL = [str(strategy) for strategy in STRATEGIES]


def values_of(domain: Domain) -> st.SearchStrategy[Scalar]:
    if isinstance(domain, Choice):
        return st.sampled_from(domain.values)
    if isinstance(domain, Int):
        return st.integers(domain.low, domain.high)
    return st.floats(domain.low, domain.high)


@st.composite
def assignments(draw: st.DrawFn, space: SearchSpace) -> dict[str, Scalar]:
    values: dict[str, Scalar] = {}
    for parameter in space:
        if parameter.is_active(values):
            values[parameter.name] = draw(values_of(parameter.domain))
    return values


def legal_numbers(name: str) -> st.SearchStrategy[int | float]:
    limits = LIMITS[name]
    high = min(limits.high, 512)
    if limits.whole:
        return st.integers(int(limits.low), int(high))
    return st.floats(limits.low, high, exclude_max=limits.below_high, allow_subnormal=False)


@st.composite
def number_overrides(draw: st.DrawFn, name: str) -> object:
    numbers = legal_numbers(name)
    form = draw(st.sampled_from(["scalar", "list", "range"]))
    if form == "scalar":
        return draw(numbers)
    if form == "list":
        return draw(st.lists(numbers, min_size=1, max_size=3, unique=True))
    low, high = sorted([draw(numbers), draw(numbers)])
    return {"low": low, "high": high, **draw(st.sampled_from([{}, {"log": False}, {"log": True}]))}


def name_overrides(known: tuple[str, ...] | list[str]) -> st.SearchStrategy[object]:
    return st.one_of(st.sampled_from(known), st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))


BY_NAME: dict[str, st.SearchStrategy[object]] = {
    "strategy": name_overrides(LEGAL),
    **{facet: name_overrides(known) for facet, known in FACETS.items()},
    **{name: number_overrides(name) for name in LIMITS},
}


@st.composite
def override_sets(draw: st.DrawFn) -> dict[str, object]:
    names = draw(st.lists(st.sampled_from(sorted(BY_NAME)), max_size=4, unique=True))
    return {name: draw(BY_NAME[name]) for name in names}


def overridden(name: str, overrides: dict[str, Any]) -> tuple[SearchSpace | None, str]:
    try:
        return apply_overrides(get_preset(name), overrides), ""
    except SearchSpaceError as error:
        return None, error.path


def strategies_of(space: SearchSpace) -> list[str]:
    domain = space["strategy"].domain
    assert isinstance(domain, Choice)
    return [str(value) for value in domain.values]


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", OURS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_assignment_is_legal_and_converts(name: str, data: st.DataObject) -> None:
    values = data.draw(assignments(get_preset(name)))
    get_preset(name).check(values)
    config = warpadam_config(values)
    assert str(config.strategy) == values["strategy"]
    assert WarpAdamConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_assignment_of_the_baseline_is_legal_and_converts(data: st.DataObject) -> None:
    values = data.draw(assignments(get_preset("adamw")))
    get_preset("adamw").check(values)
    assert adamw_config(values).lr == values["lr"]


@pytest.mark.parametrize("name", PRESETS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_assignment_with_one_value_taken_away_is_refused(name: str, data: st.DataObject) -> None:
    values = data.draw(assignments(get_preset(name)))
    del values[data.draw(st.sampled_from(sorted(values)))]
    with pytest.raises(SearchSpaceError):
        get_preset(name).check(values)


@pytest.mark.parametrize("name", PRESETS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_assignment_can_be_rebuilt_as_a_trial(name: str, data: st.DataObject) -> None:
    space = get_preset(name)
    values = data.draw(assignments(space))
    trial = optuna.trial.create_trial(params=values, distributions=distributions(space, values), value=0.0)
    assert suggest(optuna.trial.FixedTrial(trial.params), space) == values


@pytest.mark.parametrize("name", OURS)
@settings(deadline=None, max_examples=60)
@given(overrides=override_sets(), data=st.data())
def test_overrides_give_a_legal_space_or_a_search_space_error(
    name: str, overrides: dict[str, Any], data: st.DataObject
) -> None:
    space, error_path = overridden(name, overrides)
    if space is None:
        assert re.split(r"[.\[]", error_path)[0] in overrides
        return
    assert set(strategies_of(space)) <= set(LEGAL)
    values = data.draw(assignments(space))
    space.check(values)
    assert str(warpadam_config(values).strategy) == values["strategy"]


@pytest.mark.parametrize("name", OURS)
@settings(deadline=None, max_examples=60)
@given(overrides=override_sets())
def test_space_after_overrides_keeps_what_the_user_asked_for(name: str, overrides: dict[str, Any]) -> None:
    space, _ = overridden(name, overrides)
    if space is None:
        return
    assert all(override in space for override in overrides if override not in FACETS)
    for strategy in strategies_of(space):
        for facet, part in zip(FACETS, strategy.split("/"), strict=True):
            assert part in as_list(overrides.get(facet, part))
    for parameter in space:
        if parameter.when is not None:
            assert set(parameter.when.values) <= set(strategies_of(space))
            assert all(is_used(parameter.name, str(strategy)) for strategy in parameter.when.values)


@pytest.mark.parametrize("name", OURS)
@settings(deadline=None, max_examples=60)
@given(overrides=override_sets())
def test_first_trials_after_overrides_are_assignments_of_the_new_space(name: str, overrides: dict[str, Any]) -> None:
    space, _ = overridden(name, overrides)
    if space is None:
        return
    for values in space.first_trials:
        space.check(values)
    most = max(len(get_preset(of).first_trials) for of in (name, "adamw"))  # with P = I, those of AdamW
    assert len(space.first_trials) <= most
    json.dumps(describe(space), allow_nan=False)
