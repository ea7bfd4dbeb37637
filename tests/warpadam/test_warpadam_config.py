"""Every value is checked, errors say which one is wrong and why, and only the strategies of the table are legal."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpadam import STRATEGIES, InvalidConfigError, Learner, Placement, Strategy, Structure, WarpAdamConfig
from warpadam.config import LIMITS, Limits
from warpadam.errors import UnsupportedParameterError, WarpAdamError

BAD_VALUES: list[tuple[str, Any]] = [
    ("lr", -1e-3),
    ("lr", math.nan),
    ("lr", math.inf),
    ("lr", "0.1"),
    ("lr", True),
    ("eps", -1e-8),
    ("weight_decay", -0.1),
    ("rank", 0),
    ("rank", 2.5),
    ("block_size", 0),
    ("max_dim", -1),
    ("p_lr", -0.1),
    ("meta_every", 0),
    ("meta_every", 1.5),
    ("p_decay", 1.1),
    ("cov_beta", 1.0),
    ("structure", "dense"),
    ("placement", "before"),
    ("learner", "magic"),
    ("betas", 0.9),
    ("betas", (0.9,)),
    ("betas", None),
]


@pytest.mark.parametrize(("field", "value"), BAD_VALUES)
def test_a_bad_value_is_named_with_what_would_be_right(field: str, value: Any) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        WarpAdamConfig(**{field: value})
    assert caught.value.field == field
    assert caught.value.value is value
    assert str(caught.value).startswith(f"{field}: {caught.value.message}")


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("field", ["lr", "p_decay", "cov_beta", "structure", "learner"])
def test_a_number_too_large_for_a_float_is_bad_like_any_other(field: str, digits: int) -> None:
    values: list[Any] = [10**digits, -(10**digits), Fraction(10**digits)]
    for value in values:
        with pytest.raises(InvalidConfigError) as caught:
            WarpAdamConfig(**{field: value})
        assert caught.value.value is value
        assert str(caught.value).startswith(f"{field}: {caught.value.message} (got ")
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_whole_number_may_be_of_any_length(digits: int) -> None:
    assert WarpAdamConfig(max_dim=10**digits).max_dim == 10**digits
    with pytest.raises(InvalidConfigError, match="max_dim: must be a whole number of at least 1"):
        WarpAdamConfig(max_dim=-(10**digits))


@pytest.mark.parametrize(("betas", "beta"), [((1.0, 0.9), "beta1"), ((0.9, 1.0), "beta2"), ((-0.1, 0.9), "beta1")])
def test_each_beta_is_checked_by_name(betas: tuple[float, float], beta: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        WarpAdamConfig(betas=betas)
    assert caught.value.field == beta


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_listed_strategy_is_accepted(strategy: Strategy) -> None:
    assert WarpAdamConfig(**strategy._asdict()).strategy == strategy


@pytest.mark.parametrize(
    "strategy", sorted(set(itertools.product(Structure, Placement, Learner)) - set(STRATEGIES)), ids="/".join
)
def test_every_other_combination_is_refused_and_the_legal_ones_are_told(
    strategy: tuple[Structure, Placement, Learner],
) -> None:
    structure, placement, learner = strategy
    fitting = "pre" if learner == Learner.WHITENING else "sandwich"
    with pytest.raises(InvalidConfigError, match=rf"with {structure} \+ {placement} .*kronecker \+ {fitting}"):
        WarpAdamConfig(structure=structure, placement=placement, learner=learner)


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        ("", "kronecker/pre/whitening"),
        ("structure=kronecker", "kronecker/pre/whitening"),
        ("structure=full", "full/pre/whitening"),
        ("structure=diagonal", "diagonal/sandwich/hypergradient"),
        ("structure=low_rank", "low_rank/sandwich/hypergradient"),
        ("placement=pre", "kronecker/pre/whitening"),
        ("placement=sandwich", "kronecker/sandwich/rotation"),
        ("placement=post", "kronecker/post/hypergradient"),
        ("learner=whitening", "kronecker/pre/whitening"),
        ("learner=rotation", "kronecker/sandwich/rotation"),
        ("learner=hypergradient", "kronecker/sandwich/hypergradient"),
        ("learner=frozen", "kronecker/pre/frozen"),
        ("structure=full learner=rotation", "full/sandwich/rotation"),
        ("structure=full placement=sandwich", "full/sandwich/rotation"),
        ("structure=full placement=post", "full/post/hypergradient"),
        ("structure=diagonal placement=pre", "diagonal/pre/hypergradient"),
        ("structure=diagonal learner=frozen", "diagonal/pre/frozen"),
        ("placement=pre learner=hypergradient", "kronecker/pre/hypergradient"),
        ("placement=sandwich learner=frozen", "kronecker/sandwich/frozen"),
    ],
)
def test_what_is_not_given_goes_with_what_is(given: str, completed: str) -> None:
    settings: dict[str, Any] = dict(pair.split("=") for pair in given.split())
    config = WarpAdamConfig(**settings)
    assert str(config.strategy) == completed
    assert WarpAdamConfig.from_dict(settings) == config
    assert config.to_dict() | settings == config.to_dict()
    assert {type(value) for value in (config.structure, config.placement, config.learner)} == {str}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_two_parts_of_a_strategy_are_completed_to_a_legal_one_that_has_them(strategy: Strategy) -> None:
    for part in Strategy._fields:
        given = {name: value for name, value in strategy._asdict().items() if name != part}
        found = WarpAdamConfig(**given).strategy
        assert found in STRATEGIES
        assert found._replace(**{part: getattr(strategy, part)}) == strategy


@pytest.mark.parametrize("learner", ["rotation", "whitening"])
@pytest.mark.parametrize("structure", ["diagonal", "low_rank"])
def test_two_parts_that_no_third_joins_are_refused(structure: str, learner: str) -> None:
    with pytest.raises(InvalidConfigError, match=rf"with {structure} \(got '{learner}'\).*full \+ .* or kronecker \+ "):
        WarpAdamConfig(structure=structure, learner=learner)


@pytest.mark.parametrize(
    ("start", "settings", "changed"),
    [
        ("kronecker/pre/whitening", {}, "kronecker/pre/whitening"),
        ("kronecker/pre/whitening", {"structure": "full"}, "full/pre/whitening"),
        ("kronecker/pre/whitening", {"structure": "diagonal"}, "diagonal/sandwich/hypergradient"),
        ("kronecker/pre/whitening", {"learner": "rotation"}, "kronecker/sandwich/rotation"),
        ("kronecker/pre/whitening", {"learner": "frozen"}, "kronecker/pre/frozen"),
        ("diagonal/post/hypergradient", {"structure": "full"}, "full/post/hypergradient"),
        ("diagonal/post/hypergradient", {"learner": "whitening"}, "kronecker/pre/whitening"),
        ("full/sandwich/rotation", {"structure": None}, "full/sandwich/rotation"),
    ],
)
def test_a_change_keeps_the_rest_of_the_strategy_where_it_fits(
    start: str, settings: dict[str, Any], changed: str
) -> None:
    structure, placement, learner = start.split("/")
    config = WarpAdamConfig(structure=structure, placement=placement, learner=learner, lr=0.5, p_decay=0.25)
    after = config.changed(**settings, lr=0.125)
    assert str(after.strategy) == changed
    assert (after.lr, after.p_decay) == (0.125, 0.25)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"momentum": 0.9}, "momentum"),
        ({"structure": "dense"}, "structure"),
        ({"structure": "diagonal", "learner": "rotation"}, "learner"),
        ({"rank": 0}, "rank"),
    ],
)
def test_a_bad_change_is_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        WarpAdamConfig().changed(**settings)
    assert caught.value.field == field


def test_the_defaults_are_the_documented_ones() -> None:
    config = WarpAdamConfig()
    assert str(config.strategy) == "kronecker/pre/whitening"
    assert (config.lr, config.p_lr, config.meta_every, config.max_dim) == (0.005, 0.015, 5, 512)


def test_an_unknown_field_is_refused_by_from_dict() -> None:
    with pytest.raises(InvalidConfigError, match=r"momentum: is not a field .*\(got 0\.9\)"):
        WarpAdamConfig.from_dict({"momentum": 0.9})


@given(
    lr=st.floats(0, 10),
    betas=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    rank=st.integers(1, 64),
    p_decay=st.floats(0, 1),
    strategy=st.sampled_from(STRATEGIES),
)
def test_a_config_survives_json(
    lr: float, betas: tuple[float, float], rank: int, p_decay: float, strategy: Strategy
) -> None:
    config = WarpAdamConfig(lr=lr, betas=betas, rank=rank, p_decay=p_decay, **strategy._asdict())
    assert WarpAdamConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        WarpAdamConfig().lr = 0.1  # type: ignore[misc]


def test_every_number_has_limits() -> None:
    numbers = {field.name for field in fields(WarpAdamConfig)} - {"structure", "placement", "learner", "betas"}
    assert set(LIMITS) == numbers | {"beta1", "beta2"}


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (Limits(0, 1), (0, 1, 0.5), (-1e-9, 1 + 1e-9)),
        (Limits(0, 1, below_high=True), (0, 0.999), (-1e-9, 1)),
        (Limits(1, whole=True), (1, 10**9), (0, 1.0, True)),
    ],
)
def test_limits_allow_exactly_their_range(
    limits: Limits, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert all(limits.allows(value) for value in inside)
    assert not any(limits.allows(value) for value in outside)
    assert f"{limits.low:g}" in str(limits)


def test_each_error_is_also_the_builtin_that_a_user_would_catch() -> None:
    assert issubclass(InvalidConfigError, (WarpAdamError, ValueError))
    assert issubclass(UnsupportedParameterError, WarpAdamError)
    assert issubclass(UnsupportedParameterError, TypeError)
