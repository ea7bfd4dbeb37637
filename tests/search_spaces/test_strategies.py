"""Which numbers belong to which strategies, and which strategies fit a request."""

from __future__ import annotations

import pytest

from search_spaces import Int, SearchSpaceError
from search_spaces.strategies import (
    ALWAYS_USED,
    FACETS,
    USED_BY,
    choose_strategies,
    is_used,
    parse_strategy,
    strategy_parameter,
)
from warpadam.config import LIMITS, STRATEGIES

ROTATION = "kronecker/sandwich/rotation"
WHITENING = "kronecker/pre/whitening"
DIAGONAL = "diagonal/sandwich/hypergradient"


def test_every_tunable_number_is_either_always_used_or_tied_to_strategies() -> None:
    assert ALWAYS_USED.isdisjoint(USED_BY)
    assert ALWAYS_USED | set(USED_BY) == set(LIMITS)


@pytest.mark.parametrize("name", USED_BY)
def test_every_tied_number_is_used_by_some_strategies_and_not_by_others(name: str) -> None:
    used = [is_used(name, str(strategy)) for strategy in STRATEGIES]
    assert any(used)
    assert not all(used)
    facet, values = USED_BY[name]
    assert set(values) <= set(FACETS[facet])


@pytest.mark.parametrize(
    ("name", "strategy", "used"),
    [
        ("lr", "full/pre/frozen", True),
        ("rank", "low_rank/post/hypergradient", True),
        ("rank", ROTATION, False),
        ("block_size", "full/pre/hypergradient", True),
        ("block_size", DIAGONAL, False),
        ("max_dim", ROTATION, True),
        ("p_lr", "full/pre/frozen", False),
        ("p_lr", ROTATION, True),
        ("meta_every", "full/pre/frozen", False),
        ("p_decay", ROTATION, True),
        ("p_decay", DIAGONAL, True),
        ("p_decay", "full/pre/frozen", False),
        ("cov_beta", ROTATION, True),
        ("cov_beta", DIAGONAL, False),
        ("cov_beta", WHITENING, True),
        ("p_lr", WHITENING, True),
        ("p_decay", WHITENING, True),
        ("momentum", DIAGONAL, False),
    ],
)
def test_number_is_used_only_where_it_changes_something(name: str, strategy: str, used: bool) -> None:
    assert is_used(name, strategy) is used


def test_parameter_is_conditional_on_the_strategies_that_use_it() -> None:
    tied = strategy_parameter("cov_beta", Int(low=0, high=1), [DIAGONAL, ROTATION])
    assert tied.when is not None
    assert (tied.when.parent, tied.when.values) == ("strategy", (ROTATION,))
    assert strategy_parameter("lr", Int(low=0, high=1), [DIAGONAL]).when is None


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_strategy_is_read_back_from_its_text(strategy: object) -> None:
    assert parse_strategy(str(strategy)) == strategy


@pytest.mark.parametrize("text", ["kronecker/pre/rotation", "kronecker", "", None, 3, ["full/pre/frozen"]])
def test_text_that_names_no_legal_combination_is_refused(text: object) -> None:
    with pytest.raises(SearchSpaceError, match="strategy: ") as caught:
        parse_strategy(text)
    assert ROTATION in str(caught.value)


@pytest.mark.parametrize(
    ("wishes", "chosen"),
    [
        ({}, [DIAGONAL, ROTATION]),
        ({"structure": ["diagonal"]}, [DIAGONAL]),
        ({"learner": ["rotation"]}, [ROTATION]),
        ({"learner": ["whitening"]}, [WHITENING, "full/pre/whitening"]),
        ({"placement": ["pre"], "learner": ["whitening", "rotation"]}, [WHITENING, "full/pre/whitening"]),
        ({"structure": ["full"], "placement": ["post"]}, ["full/post/hypergradient"]),
        ({"structure": ["full"], "placement": ["post"], "learner": ["frozen"]}, ["full/post/frozen"]),
        (
            {"structure": ["kronecker", "low_rank"], "placement": ["sandwich"]},
            ["low_rank/sandwich/hypergradient", ROTATION],
        ),
        ({"structure": ["diagonal", "kronecker"], "learner": ["rotation"]}, [ROTATION]),
    ],
)
def test_wish_takes_the_strategies_of_the_space_and_else_those_of_the_table(
    wishes: dict[str, list[str]], chosen: list[str]
) -> None:
    assert list(choose_strategies([DIAGONAL, ROTATION], wishes)) == chosen


def test_wish_that_nothing_fits_is_refused_and_told_what_fits() -> None:
    with pytest.raises(SearchSpaceError) as caught:
        choose_strategies([DIAGONAL], {"structure": ["diagonal"], "learner": ["rotation"]})
    assert caught.value.path == "learner"
    assert "structure=diagonal" in str(caught.value)
    assert f"learner=rotation are {ROTATION}" in str(caught.value)
