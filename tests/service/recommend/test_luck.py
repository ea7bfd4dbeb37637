from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Scalar
from service.recommend.luck import FIRST_FOUND, luck_of


def at(lr: float, **others: Scalar) -> dict[str, Scalar]:
    return {"lr": lr, "beta1": 0.9, **others}


def test_trials_next_to_the_winner_do_not_hide_how_far_the_others_are_behind() -> None:
    near = [(at(0.01 * 1.7**step), 0.001 * step) for step in range(3)]
    luck = luck_of([*near, (at(0.0001), 0.4)], [])
    assert luck.penalties == [0.0, 0.4]


def test_another_momentum_or_strategy_is_another_trial() -> None:
    trials = [(at(0.01), 0.0), (at(0.01, beta1=0.95), 0.1), (at(0.01, strategy="other"), 0.2)]
    assert luck_of(trials, []).penalties == [0.0, 0.1, 0.2]


def test_a_trial_near_a_first_one_would_be_found_again() -> None:
    luck = luck_of([(at(0.012), 0.0), (at(0.3), 0.1), (at(0.01), 0.2)], [at(0.01)])
    assert luck.penalties == [0.0, 0.1]
    assert luck.chances == [FIRST_FOUND, pytest.approx(1 - (2 / 3) ** 3)]


def test_an_lr_of_0_is_near_itself_alone() -> None:
    trials = [(at(0.01), 0.0), (at(0.0), 0.1), (at(0.0), 0.2), (at(1e-300), 0.3), (at(1e300), 0.4)]
    assert luck_of(trials, []).penalties == [0.0, 0.1, 0.3, 0.4]


@given(st.lists(st.tuples(st.floats(1e-4, 0.3), st.floats(0, 2)), min_size=1, max_size=20))
def test_penalties_rise_from_that_of_the_winner_and_chances_are_chances(found: list[tuple[float, float]]) -> None:
    trials = sorted(((at(lr), penalty) for lr, penalty in found), key=lambda one: one[1])
    luck = luck_of(trials, [at(0.01)])
    assert luck.penalties[0] == trials[0][1]
    assert list(luck.penalties) == sorted(luck.penalties)
    assert all(0 < chance <= 1 for chance in luck.chances)
    assert len(luck.penalties) == len(luck.chances) <= len(trials)
