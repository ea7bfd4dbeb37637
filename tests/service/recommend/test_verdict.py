from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from service.recommend import verdict as verdict_module
from service.recommend.luck import SearchLuck
from service.recommend.verdict import compare, holm, level
from service.result.job_result import Verdict, Word
from service.spec.job import MAX_CONFIRM_SEEDS

few_resamples = pytest.mark.usefixtures("quick_intervals")
"""For simulations: their words do not depend on the bootstrap interval, which is only shown."""


@pytest.fixture
def quick_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_module, "RESAMPLES", 50)


BASE = [1.0, 1.2, 0.9, 1.1, 1.05, 0.95, 1.15, 1.0]
Pairs = list[tuple[float, float]]
NOISE = [0.01, -0.02, 0.015, -0.01, 0.02, -0.015, 0.005, -0.005]


def shifted(by: float) -> list[float]:
    return [base - by + noise for base, noise in zip(BASE, NOISE, strict=True)]


@pytest.mark.parametrize(
    ("challenger", "min_effect", "word"),
    [
        (shifted(0.3), 0.01, Word.HELPS),
        (shifted(-0.3), 0.01, Word.HURTS),
        (shifted(0.0), 0.05, Word.NO_DIFFERENCE),
        (BASE, 0.01, Word.NO_DIFFERENCE),  # equal to the last digit
        (BASE, 0.0, Word.NO_DIFFERENCE),
        (shifted(0.0), 0.001, Word.INCONCLUSIVE),
        (shifted(0.05), 0.2, Word.NO_DIFFERENCE),  # significant, but too small to matter
        ([1.5, 0.5, 1.4, 0.6, 1.5, 0.4, 1.6, 0.5], 0.01, Word.INCONCLUSIVE),
        ([b - 0.1 for b in BASE], 0.01, Word.HELPS),  # every difference the same
    ],
)
def test_the_word(challenger: list[float], min_effect: float, word: Word) -> None:
    assert compare(BASE, challenger, min_effect).word is word


def test_gains_that_differ_in_their_last_digit_only_have_an_interval() -> None:
    verdict = compare([0.15] * 8, [0.1] * 4 + [0.15 - 0.049999999999999996] * 4, 0.01)
    assert verdict.word is Word.HELPS
    assert all(map(math.isfinite, verdict.interval))


def test_a_baseline_without_loss_has_no_relative_effect() -> None:
    verdict = compare([0.0] * 6, [0.1, 0.2, 0.1, 0.2, 0.1, 0.3], 0.01)
    assert (verdict.word, verdict.relative_improvement) == (Word.HURTS, None)


def test_the_p_value_of_eight_pairs_is_exact() -> None:
    verdict = compare(BASE, shifted(0.3), 0.01)
    assert verdict.p_helps == pytest.approx(1 / 2**8)
    assert verdict.p_hurts == 1.0


@pytest.mark.parametrize("count", [2, 7, 10])
def test_the_p_value_is_the_one_of_scipy(count: int) -> None:
    rng = np.random.default_rng(count)
    for gains in (rng.normal(0.3, 1.0, count), rng.integers(-2, 4, count).astype(float)):  # the second with ties
        verdict = compare((9.0 + gains).tolist(), [9.0] * count, 0.0)
        sides: list[tuple[Literal["greater", "less"], float]]
        sides = [("greater", verdict.p_helps), ("less", verdict.p_hurts)]
        for alternative, found in sides:
            expected = stats.permutation_test(
                (gains,), np.mean, permutation_type="samples", n_resamples=9999, alternative=alternative
            )
            assert found == pytest.approx(expected.pvalue)


@pytest.mark.slow
def test_more_pairs_than_can_be_counted_are_sampled() -> None:
    rng = np.random.default_rng(0)
    gains = rng.normal(0.35, 1.0, (2, 41))
    sampled, exact = (compare((9.0 + gains[0][:n]).tolist(), [9.0] * n, 0.0) for n in (41, 40))
    assert sampled.p_helps == pytest.approx(exact.p_helps, abs=0.02)


def test_six_pairs_can_be_significant_and_four_cannot() -> None:
    assert compare(BASE[:6], shifted(0.3)[:6], 0.01).word is Word.HELPS
    assert compare(BASE[:4], shifted(0.3)[:4], 0.01).word is not Word.HELPS


def test_the_interval_holds_the_mean_and_the_figures_fit_together() -> None:
    verdict = compare(BASE, shifted(0.3), 0.01)
    low, high = verdict.interval
    assert low < verdict.improvement < high
    assert verdict.improvement == pytest.approx(verdict.baseline_mean - verdict.challenger_mean)
    assert verdict.relative_improvement == pytest.approx(verdict.improvement / verdict.baseline_mean)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=6, max_size=10),
    st.floats(0.001, 1000),
)
def test_swapping_the_arms_mirrors_the_word_and_the_unit_does_not_matter(
    pairs: list[tuple[float, float]], unit: float
) -> None:
    base, other = [b for b, _ in pairs], [o for _, o in pairs]
    verdict = compare(base, other, 0.0)
    assert all(map(math.isfinite, (*verdict.interval, verdict.p_helps, verdict.p_hurts)))
    mirrored = compare(other, base, 0.0)
    assert (verdict.p_helps, verdict.p_hurts) == pytest.approx((mirrored.p_hurts, mirrored.p_helps))
    scaled = compare([b * unit for b in base], [o * unit for o in other], 0.0)
    assert scaled.p_helps == pytest.approx(verdict.p_helps, abs=0.02)  # ties may break at the last digit


@few_resamples
def test_noise_alone_rarely_helps() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(1.0, 0.1, (200, 2, 8)).tolist()
    words = [compare(base, other, 0.0).word for base, other in draws]
    assert words.count(Word.HELPS) <= 18  # 5 % of 200, and three binomial standard deviations


@pytest.mark.parametrize(
    ("baseline", "challenger", "message"),
    [
        ([1.0, 2.0], [1.0], "same length"),
        ([1.0], [1.0], "2 or more"),
        ([], [], "2 or more"),
        ([1.0, math.nan], [1.0, 2.0], "finite"),
        ([1.0, 2.0], [math.inf, 2.0], "finite"),
    ],
)
def test_lists_that_are_no_pairs_are_refused(baseline: list[float], challenger: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(baseline, challenger, 0.01)


def test_equal_pairs_are_no_difference_without_a_warning() -> None:
    verdict = compare(BASE, BASE, 0.0)
    assert (verdict.word, verdict.p_helps, verdict.p_hurts, verdict.interval) == (Word.NO_DIFFERENCE, 1.0, 1.0, (0, 0))
    assert (verdict.win_rate, verdict.more_pairs) == (0.5, None)


def test_win_rate_is_the_share_of_pairs_with_a_gain_and_half_of_the_ties() -> None:
    assert compare([1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 1.0, 1.5], 0.0).win_rate == 0.625


def test_a_further_look_is_tested_at_half_the_level() -> None:
    six = (BASE[:6], shifted(0.3)[:6])
    looks = [compare(*six, 0.01, look=look) for look in (1, 2, 3)]
    assert [v.alpha for v in looks] == [0.05, 0.025, 0.0125] == [level(look) for look in (1, 2, 3)]
    assert [v.word for v in looks] == [Word.HELPS, Word.HELPS, Word.INCONCLUSIVE]  # p is 1/64 at each


@few_resamples
@pytest.mark.parametrize(
    ("mean", "min_effect", "word", "most"),
    [
        (0.5, 0.0, Word.HELPS, 40),  # (1.96 + 0.84)^2 / 0.5^2 = 31, and a little for Student's t
        (0.6, 0.09, Word.HELPS, 36),  # and the mean must be at least 0.45: (0.84 / 0.15)^2 = 31
        (0.05, 0.13, Word.NO_DIFFERENCE, 30),  # the interval must be within 0.65 on either side
    ],
)
def test_an_inconclusive_comparison_says_how_many_more_pairs_would_settle_it_at_the_next_look(
    mean: float, min_effect: float, word: Word, most: int
) -> None:
    rng = np.random.default_rng(1)
    gains = rng.normal(0.0, 1.0, 8)
    gains = mean + (gains - gains.mean()) / gains.std(ddof=1)
    verdict = compare([5.0] * 8, (5.0 - gains).tolist(), min_effect)
    assert verdict.word is Word.INCONCLUSIVE
    assert verdict.more_pairs is not None
    pairs = 8 + verdict.more_pairs
    assert pairs <= most
    later = rng.normal(mean, 1.0, (200, pairs))
    settled = [compare([5.0] * pairs, (5.0 - row).tolist(), min_effect, look=2).word is word for row in later]
    assert 0.72 <= np.mean(settled) <= 0.9


def test_a_small_effect_inside_the_bounds_needs_the_pairs_that_show_it_is_small() -> None:
    verdict = compare(BASE, shifted(0.0), 0.008)
    assert verdict.word is Word.INCONCLUSIVE
    assert verdict.more_pairs is not None
    assert 1 <= verdict.more_pairs < 40


def test_a_hopeless_comparison_asks_for_no_number() -> None:
    assert compare([1.0] * 8, [1.5, 0.5] * 4, 0.0).more_pairs is None


@few_resamples
@pytest.mark.parametrize("pairs", [8, 40, MAX_CONFIRM_SEEDS])
def test_no_more_pairs_are_asked_for_than_a_job_can_have(pairs: int) -> None:
    gains = np.random.default_rng(0).normal(0.0, 1.0, pairs)
    found = []
    for mean in (0.05, 0.1, 0.15, 0.3):
        verdict = compare([9.0] * pairs, (9.0 - mean - (gains - gains.mean()) / gains.std(ddof=1)).tolist(), 0.001)
        assert verdict.word is not Word.INCONCLUSIVE or verdict.more_pairs is None or verdict.more_pairs > 0
        found.append(verdict.more_pairs or 0)
    assert max(found) <= MAX_CONFIRM_SEEDS - pairs


def test_more_pairs_are_not_asked_for_where_luck_in_the_search_would_remain() -> None:
    noisy = shifted(0.15)
    noisy[0] += 0.45
    alone, judged = compare(BASE, noisy, 0.01), compare(BASE, noisy, 0.01, luck=(SURE, LUCKY))
    assert alone.word is judged.word is Word.INCONCLUSIVE
    assert alone.more_pairs is not None
    assert judged.more_pairs is None


def test_holm_multiplies_by_the_hypotheses_that_are_left_and_never_decreases() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
@few_resamples
def test_a_true_effect_of_one_standard_deviation_is_found_by_ten_pairs() -> None:
    rng = np.random.default_rng(2)
    found = [compare([5.0] * 10, (5.0 - row).tolist(), 0.0).word is Word.HELPS for row in rng.normal(1, 1, (500, 10))]
    assert np.mean(found) >= 0.8


SURE = SearchLuck([0.0, 0.0, 0.0], [0.64, 0.64, 0.64])
"""A search whose next best trials are as good as its best one."""

LUCKY = SearchLuck([0.0, 0.5, 0.9], [0.64, 0.64, 0.64])
"""A search that found one good trial, far before all others."""


def test_a_search_with_equally_good_trials_changes_no_word() -> None:
    alone, judged = compare(BASE, shifted(0.1), 0.01), compare(BASE, shifted(0.1), 0.01, luck=(SURE, SURE))
    assert alone.word == judged.word == Word.HELPS
    assert alone.luck_interval is None
    assert judged.luck_interval is not None
    assert 0 < judged.luck_interval[0] < judged.improvement < judged.luck_interval[1]


@pytest.mark.parametrize(("by", "luck"), [(0.1, (SURE, LUCKY)), (-0.1, (LUCKY, SURE))], ids=["helps", "hurts"])
def test_a_difference_that_the_luck_of_the_winners_search_explains_is_inconclusive(
    by: float, luck: tuple[SearchLuck, SearchLuck]
) -> None:
    verdict = compare(BASE, shifted(by), 0.01, luck=luck)
    assert verdict.word is Word.INCONCLUSIVE
    assert verdict.luck is not None
    assert verdict.relative_improvement is not None
    assert verdict.luck > abs(verdict.relative_improvement)
    assert verdict.more_pairs is None


def test_the_luck_of_the_loser_takes_nothing_from_the_winner() -> None:
    assert compare(BASE, shifted(0.1), 0.01, luck=(LUCKY, SURE)).word is Word.HELPS


def test_the_luck_of_the_winner_is_of_the_size_of_its_own_costs() -> None:
    """Twice the cost of the winner is still far below the cost of the loser."""
    behind = 0.01 * float(np.mean(BASE))
    luck = (SURE, SearchLuck([0.0, behind], [0.64, 0.64]))
    assert compare(BASE, [0.01 * loss for loss in BASE], 0.01, luck=luck).word is Word.HELPS


def test_an_effect_beyond_all_luck_is_still_seen() -> None:
    assert compare(BASE, shifted(0.98), 0.01, luck=(SURE, LUCKY)).word is Word.HELPS


def test_the_second_best_takes_the_place_of_the_best_as_often_as_a_bootstrap_leaves_that_out() -> None:
    luck = (SURE, SearchLuck([0.0, 1.0], [0.64, 0.64]))
    gains = np.full(8, 0.5)
    low, high = verdict_module.luck_interval(gains, luck, 0.3)
    assert (low, high) == (-0.5, 0.5)  # left out with a chance of (1 - 1/20)^20 = 0.36
    low, high = verdict_module.luck_interval(gains, luck, 0.4)
    assert (low, high) == (0.5, 0.5)


EVEN: Final = [*[(1 / 64, 1 / 64)] * 3, (1 / 64, 69 / 64), (41 / 64, 1 / 64), (41 / 64, 13 / 64)]
"""Pairs whose mean difference is 0, but not with other units, because of rounding."""


def losses_and_luck() -> st.SearchStrategy[tuple[Pairs, float, tuple[SearchLuck, SearchLuck]]]:
    """Paired losses that are multiples of 1/64, an effect that none of their means can equal, and races."""
    loss = st.integers(1, 640).map(lambda count: count / 64)
    race = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=5)
    luck = race.map(lambda behind: SearchLuck([0.0, *sorted(behind)], [0.64] * (len(behind) + 1)))
    pairs = st.lists(st.tuples(loss, loss), min_size=6, max_size=10)
    return st.tuples(pairs, st.sampled_from([0.0137, 0.1037, 0.5037]), st.tuples(luck, luck))


@few_resamples
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(losses_and_luck(), st.floats(1e-6, 1e6))
@example(drawn=(EVEN, 0.0137, (SearchLuck([0.0, 1.0], [0.64, 0.64]),) * 2), unit=1e-6)
def test_the_unit_of_the_losses_changes_no_word(
    drawn: tuple[Pairs, float, tuple[SearchLuck, SearchLuck]], unit: float
) -> None:
    pairs, min_effect, luck = drawn
    verdicts: list[Verdict] = []
    for scale in (1.0, unit):
        base, other = ([scale * pair[side] for pair in pairs] for side in (0, 1))
        of_base, of_other = (
            SearchLuck([scale * penalty for penalty in search.penalties], search.chances) for search in luck
        )
        verdicts.append(compare(base, other, min_effect, luck=(of_base, of_other)))
    one, scaled = verdicts
    assert scaled.word is one.word
    assert scaled.relative_improvement == pytest.approx(one.relative_improvement)
    assert scaled.luck == pytest.approx(one.luck)


@few_resamples
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(losses_and_luck())
def test_a_word_never_contradicts_its_figures(drawn: tuple[Pairs, float, tuple[SearchLuck, SearchLuck]]) -> None:
    pairs, min_effect, luck = drawn
    verdict = compare([pair[0] for pair in pairs], [pair[1] for pair in pairs], min_effect, luck=luck)
    effect, of_luck = verdict.relative_improvement, verdict.luck
    assert effect is not None
    assert of_luck is not None
    assert of_luck >= 0
    p = verdict.p_helps if effect > 0 else verdict.p_hurts
    is_clear = p <= verdict.alpha and abs(effect) >= min_effect and abs(effect) > of_luck
    assert is_clear is (verdict.word in (Word.HELPS, Word.HURTS))
    assert effect > 0 or verdict.word is not Word.HELPS
    assert effect < 0 or verdict.word is not Word.HURTS
    assert abs(effect) <= min_effect or verdict.word is not Word.NO_DIFFERENCE


@few_resamples
def test_two_searches_for_the_same_optimizer_rarely_end_farther_apart_than_luck_says() -> None:
    """Each search finds each of the best configs with the chance of a bootstrap sample, and its race shows the rest."""
    rng, costs, farther = np.random.default_rng(0), np.array([1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4]), 0
    for _ in range(300):
        arms, luck = [], []
        for _ in range(2):
            found = costs[rng.random(len(costs)) < 0.64]
            found = found if len(found) else costs[-1:]
            luck.append(SearchLuck((found - found[0]).tolist(), [0.64] * len(found)))
            arms.append(found[0] + rng.normal(0.0, 0.02, 8))
        verdict = compare(arms[0].tolist(), arms[1].tolist(), 0.0, luck=(luck[0], luck[1]))
        assert verdict.relative_improvement is not None
        assert verdict.luck is not None
        farther += abs(verdict.relative_improvement) > verdict.luck
    assert farther <= 30 + 3 * (300 * 0.1 * 0.9) ** 0.5, farther  # one in ten, and three standard deviations
