from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.recommend.verdict import Word, compare

BASE = [1.0, 1.2, 0.9, 1.1, 1.05, 0.95, 1.15, 1.0]
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


def test_six_pairs_can_be_significant_and_four_cannot() -> None:
    assert compare(BASE[:6], shifted(0.3)[:6], 0.01).word is Word.HELPS
    assert compare(BASE[:4], shifted(0.3)[:4], 0.01).word is not Word.HELPS


def test_the_interval_holds_the_mean_and_the_figures_fit_together() -> None:
    verdict = compare(BASE, shifted(0.3), 0.01)
    low, high = verdict.interval
    assert low < verdict.improvement < high
    assert verdict.improvement == pytest.approx(verdict.baseline_mean - verdict.challenger_mean)
    assert verdict.relative_improvement == pytest.approx(verdict.improvement / verdict.baseline_mean)
    assert "lower" in verdict.reason


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
