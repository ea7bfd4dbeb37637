"""What a user may override in a space, what the result is, and how a wrong override is refused."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces import (
    PRESETS,
    Choice,
    Condition,
    Domain,
    Float,
    Int,
    Parameter,
    Scalar,
    SearchSpace,
    SearchSpaceError,
    apply_overrides,
    get_preset,
)

ROTATION = "kronecker/sandwich/rotation"
DIAGONAL = "diagonal/sandwich/hypergradient"
LOW_RANK = "low_rank/sandwich/hypergradient"


def wide(**overrides: object) -> SearchSpace:
    return apply_overrides(get_preset("wide"), overrides)


def strategies(space: SearchSpace) -> list[object]:
    domain = space["strategy"].domain
    assert isinstance(domain, Choice)
    return list(domain.values)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_override_changes_nothing(preset: str) -> None:
    assert apply_overrides(get_preset(preset), {}) == get_preset(preset)


@pytest.mark.parametrize(
    ("name", "override", "domain"),
    [
        ("lr", 0.5, Choice(values=(0.5,))),
        ("lr", 1, Choice(values=(1.0,))),
        ("lr", [0.001, 0.01], Choice(values=(0.001, 0.01))),
        ("lr", {"low": 0.001, "high": 0.01}, Float(low=0.001, high=0.01, log=True)),
        ("lr", {"low": 0, "high": 0.01, "log": False}, Float(low=0.0, high=0.01)),
        ("beta1", {"low": 0.5, "high": 0.9}, Float(low=0.5, high=0.9)),
        ("rank", 3, Choice(values=(3,))),
        ("rank", (1, 64), Choice(values=(1, 64))),
        ("rank", {"low": 2, "high": 4}, Int(low=2, high=4, log=True)),
        ("cov_beta", {"low": 0.5, "high": 0.9, "log": True}, Float(low=0.5, high=0.9, log=True)),
    ],
)
def test_scalar_fixes_list_is_a_choice_and_ends_are_a_range(name: str, override: object, domain: Domain) -> None:
    space = wide(**{name: override})
    assert space[name].domain == domain
    assert space[name].when == get_preset("wide")[name].when
    assert space.names == get_preset("wide").names


@pytest.mark.parametrize(
    ("name", "override", "used_by"),
    [
        ("eps", {"low": 1e-10, "high": 1e-6, "log": True}, None),
        ("max_dim", [64, 256], {ROTATION, "kronecker/pre/whitening", "kronecker/sandwich/hypergradient"}),
    ],
)
def test_number_that_the_preset_leaves_alone_is_added_with_its_condition(
    name: str, override: object, used_by: set[str] | None
) -> None:
    space = wide(**{name: override})
    when = space[name].when
    assert name not in get_preset("wide")
    assert (None if when is None else set(when.values)) == used_by


def test_structure_filters_the_strategies_and_drops_what_they_do_not_use() -> None:
    space = wide(structure="diagonal")
    assert strategies(space) == [DIAGONAL]
    assert set(space.names) == {"strategy", "lr", "beta1", "beta2", "weight_decay", "p_lr", "meta_every", "p_decay"}
    assert space["p_lr"].when == Condition(parent="strategy", values=(DIAGONAL,))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"learner": "rotation"}, [ROTATION]),
        ({"structure": ["diagonal", "low_rank"]}, [DIAGONAL, LOW_RANK]),
        ({"structure": "full", "placement": "post"}, ["full/post/hypergradient"]),
        ({"structure": "full", "placement": "post", "learner": "frozen"}, ["full/post/frozen"]),
        (
            {"structure": ["diagonal", "full"], "placement": ["sandwich"]},
            [DIAGONAL, "full/sandwich/hypergradient", "full/sandwich/rotation"],
        ),
        ({"strategy": ["full/pre/frozen", DIAGONAL]}, ["full/pre/frozen", DIAGONAL]),
        ({"strategy": [ROTATION, DIAGONAL], "structure": "diagonal"}, [DIAGONAL]),
    ],
)
def test_wishes_choose_the_strategies(overrides: dict[str, object], expected: list[str]) -> None:
    assert strategies(wide(**overrides)) == expected


def test_strategies_new_to_the_preset_bring_the_numbers_they_use() -> None:
    space = wide(structure=["low_rank", "full"], placement="pre", learner="hypergradient", block_size=64)
    assert space["rank"].when == Condition(parent="strategy", values=("low_rank/pre/hypergradient",))
    assert space["block_size"].when == Condition(parent="strategy", values=("full/pre/hypergradient",))
    assert set(space["p_lr"].when.values if space["p_lr"].when else ()) == set(strategies(space))
    assert "cov_beta" not in space


@pytest.mark.parametrize(
    ("overrides", "path", "expected"),
    [
        ({"p_rl": 0.1}, "p_rl", "Did you mean 'p_lr'?"),
        ({"betas": [0.9, 0.99]}, "betas", "Did you mean 'beta"),
        ({1: 0.1}, "1", "names are strategy, lr"),
        ({"lr": -0.1}, "lr", "a finite number of at least 0"),
        ({"lr": 0}, "lr", "must be more than 0: with an lr of 0 nothing is trained"),
        ({"lr": [0.1, 0.0]}, "lr[1]", "must be more than 0"),
        ({"lr": {"low": 0, "high": 0, "log": False}}, "lr.high", "must be more than 0"),
        ({"lr": None}, "lr", "a finite number"),
        ({"lr": True}, "lr", "a finite number"),
        ({"lr": "0.1"}, "lr", "a finite number"),
        ({"lr": float("nan")}, "lr", "a finite number"),
        ({"lr": float("inf")}, "lr", "a finite number"),
        ({"lr": []}, "lr", "must have at least one value"),
        ({"lr": [0.1, [0.2]]}, "lr[1]", "a finite number"),
        ({"lr": [0.1, 0.1]}, "lr[1]", "repeats a value"),
        ({"lr": {}}, "lr.low", "is required"),
        ({"lr": {"low": 0.1}}, "lr.high", "is required"),
        ({"lr": {"low": 0.2, "high": 0.1}}, "lr.low", "at most the high end"),
        ({"lr": {"low": 0, "high": 0.1}}, "lr.low", "log: false"),
        ({"lr": {"low": 0.1, "high": 0.2, "step": 0.1}}, "lr.step", "names are low, high, log"),
        ({"lr": {"low": 0.1, "high": 0.2, "log": "yes"}}, "lr.log", "true or false"),
        ({"lr": {"low": "a", "high": 0.2}}, "lr.low", "a finite number"),
        ({"beta1": 1.0}, "beta1", "below 1"),
        ({"beta2": {"low": 0.9, "high": 1.0}}, "beta2.high", "below 1"),
        ({"p_decay": [0.0, 1.5]}, "p_decay[1]", "from 0 to 1"),
        ({"rank": 1.5}, "rank", "a whole number of at least 1"),
        ({"rank": 2.0}, "rank", "a whole number of at least 1"),
        ({"rank": {"low": 1, "high": 8.0}}, "rank.high", "a whole number of at least 1"),
        ({"rank": {"low": 0, "high": 8}}, "rank.low", "a whole number of at least 1"),
        ({"rank": 10**30}, "rank", "at most 2**53"),
        *(
            case
            for huge in (10**400, 10**5000)
            for case in (
                ({"lr": huge}, "lr", "a finite number"),
                ({"lr": -huge}, "lr", "a finite number"),
                ({"lr": [0.1, huge]}, "lr[1]", "a finite number"),
                ({"lr": {"low": 0.1, "high": huge}}, "lr.high", "a finite number"),
                ({"max_dim": huge}, "max_dim", "at most 2**53"),
                ({"max_dim": -huge}, "max_dim", "a whole number of at least 1"),
                ({"rank": {"low": huge, "high": huge}}, "rank.low", "at most 2**53"),
                ({"p_decay": huge}, "p_decay", "from 0 to 1"),
                ({"structure": huge}, "structure", "one of"),
                ({"strategy": [huge]}, "strategy[0]", "one of"),
            )
        ),
        ({"structure": "kroneker"}, "structure", "Did you mean 'kronecker'?"),
        ({"structure": ["full", "dense"]}, "structure[1]", "diagonal, low_rank, kronecker, full"),
        ({"structure": ["full", "full"]}, "structure[1]", "repeats a name"),
        ({"structure": []}, "structure", "must have at least one value"),
        ({"structure": 3}, "structure", "one of"),
        ({"structure": {"low": 1, "high": 2}}, "structure", "has no range"),
        ({"strategy": {"low": 1, "high": 2}}, "strategy", "has no range"),
        ({"strategy": "kronecker/pre/rotation"}, "strategy", "Did you mean 'kronecker/pre"),
        ({"strategy": DIAGONAL, "structure": "full"}, "strategy", "structure=full"),
        ({"structure": "diagonal", "learner": "rotation"}, "learner", f"learner=rotation are {ROTATION}"),
        ({"structure": "diagonal", "rank": 4}, "rank", "is only used when structure is low_rank; here it is diagonal"),
        ({"block_size": 64}, "block_size", "is only used when structure is full; here it is kronecker"),
        ({"learner": "hypergradient", "cov_beta": 0.9}, "cov_beta", "learner is rotation"),
        ({"learner": "frozen", "p_lr": 0.1}, "p_lr", "here it is frozen"),
    ],
)
def test_override_that_cannot_be_followed_is_refused_by_field(
    overrides: dict[str, Any], path: str, expected: str
) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        apply_overrides(get_preset("wide"), overrides)
    assert caught.value.path == path
    assert expected in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize("name", ["rank", "strategy", "structure", "p_lr"])
def test_baseline_has_no_p_to_override(name: str) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        apply_overrides(get_preset("adamw"), {name: 1})
    assert caught.value.path == name
    assert "names are lr, beta1, beta2, weight_decay, eps" in str(caught.value)


def test_baseline_takes_adams_numbers() -> None:
    space = apply_overrides(get_preset("adamw"), {"lr": [0.001, 0.01], "eps": 1e-6})
    assert space["lr"].domain == Choice(values=(0.001, 0.01))
    assert space["eps"].when is None
    assert all(values["eps"] == 1e-6 for values in space.first_trials)


def test_overrides_can_be_applied_one_after_the_other() -> None:
    at_once = wide(structure="low_rank", rank=[2, 4], lr=0.01)
    in_turn = apply_overrides(apply_overrides(wide(structure="low_rank"), {"rank": [2, 4]}), {"lr": 0.01})
    assert in_turn == at_once


# First trials


def test_first_trial_of_a_strategy_that_is_gone_is_dropped() -> None:
    kept = wide(learner="rotation").first_trials
    first = get_preset("wide").first_trials
    assert kept == tuple(trial for trial in first if trial["strategy"] == "kronecker/sandwich/rotation")
    assert 0 < len(kept) < len(first)


def test_first_trials_take_other_strategies_if_none_of_theirs_is_left() -> None:
    frozen = apply_overrides(get_preset("default"), {"learner": "frozen"})
    assert {trial["strategy"] for trial in frozen.first_trials} < set(strategies(frozen))
    without_strategy = [{name: trial[name] for name in trial if name != "strategy"} for trial in frozen.first_trials]
    assert without_strategy == list(get_preset("adamw").first_trials)  # with P = I the arm is AdamW
    assert len(wide(structure="full").first_trials) >= 4


@pytest.mark.parametrize(
    ("overrides", "name", "values"),
    [
        ({"lr": {"low": 0.02, "high": 0.045}}, "lr", [0.02, 0.045, 0.02, 0.045, 0.03, 0.02, 0.03]),
        ({"lr": [0.004, 0.05]}, "lr", [0.004, 0.05, 0.004, 0.05, 0.05, 0.004, 0.05]),
        ({"beta1": 0.5}, "beta1", [0.5] * 7),
        ({"meta_every": {"low": 8, "high": 9}}, "meta_every", [8] * 8),
        ({"eps": {"low": 1e-6, "high": 1e-4}}, "eps", [1e-6] * 8),
        ({"eps": {"low": 1e-10, "high": 1e-4}}, "eps", [1e-8] * 8),
    ],
)
def test_first_trials_take_the_nearest_legal_value(
    overrides: dict[str, object], name: str, values: list[float]
) -> None:
    assert [trial[name] for trial in wide(**overrides).first_trials] == values


def test_first_trials_that_become_equal_are_tried_once() -> None:
    given = {"lr": 0.01, "beta1": 0.9, "weight_decay": 0.0, "p_lr": 0.03, "meta_every": 2}
    assert len(wide(learner="rotation").first_trials) > 1
    assert len(wide(learner="rotation", **given).first_trials) == 1


# Spaces of others


def custom() -> SearchSpace:
    kind = Parameter(name="kind", domain=Choice(values=("plain", "heavy")))
    mass = Parameter(name="mass", domain=Int(low=1, high=9), when=Condition(parent="kind", values=("heavy",)))
    drag = Parameter(name="drag", domain=Float(low=0.0, high=1.0))
    trials: tuple[dict[str, Scalar], ...] = ({"kind": "heavy", "mass": 5, "drag": 0.5}, {"kind": "plain", "drag": 0.5})
    return SearchSpace(name="custom", parameters=(kind, mass, drag), first_trials=trials)


def test_parameter_that_is_none_of_warpadams_stays_within_its_own_values() -> None:
    space = apply_overrides(custom(), {"kind": "heavy", "mass": {"low": 2, "high": 3}, "drag": [0, 1]})
    assert space["mass"].domain == Int(low=2, high=3)
    assert space.first_trials == ({"kind": "heavy", "mass": 3, "drag": 0},)


@pytest.mark.parametrize(
    ("overrides", "path", "expected"),
    [
        ({"kind": "light"}, "kind", "one of plain, heavy"),
        ({"kind": {"low": 1, "high": 2}}, "kind.low", "has no range"),
        ({"mass": 10}, "mass", "a whole number from 1 to 9"),
        ({"drag": {"low": 0.5, "high": 2}}, "drag.high", "a number from 0 to 1"),
        ({"drag": 10**400}, "drag", "a number from 0 to 1"),
        ({"mass": 10**5000}, "mass", "a whole number from 1 to 9"),
        ({"kind": "plain", "mass": 2}, "mass", "needs that kind is heavy"),
    ],
)
def test_wrong_override_of_a_foreign_space_is_refused(overrides: dict[str, object], path: str, expected: str) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        apply_overrides(custom(), overrides)
    assert caught.value.path == path
    assert expected in str(caught.value)


@pytest.mark.parametrize("preset", ["sgd", "muon"])
@pytest.mark.parametrize("name", ["eps", "beta1", "beta2"])
def test_a_number_of_adam_is_refused_where_the_baseline_has_none(preset: str, name: str) -> None:
    with pytest.raises(SearchSpaceError, match=f"{name}: is not a known name") as caught:
        apply_overrides(get_preset(preset), {name: 0.5})
    assert caught.value.path == name


@pytest.mark.parametrize("preset", ["adamw", "soap"])
def test_eps_may_be_given_to_a_baseline_that_is_an_adam(preset: str) -> None:
    assert apply_overrides(get_preset(preset), {"eps": 1e-6})["eps"].domain == Choice(values=(1e-6,))
