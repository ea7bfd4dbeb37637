"""Decides helps, hurts, no difference or inconclusive from paired losses.

Pure functions of two lists: no database, no jobs. scipy does the arithmetic and is loaded only when needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from service.recommend.luck import SearchLuck
from service.result.job_result import ALPHA, Verdict, Word
from service.spec.job import MAX_CONFIRM_SEEDS

Floats = npt.NDArray[np.float64]

EXACT_PAIRS: Final = 40
"""Up to this many pairs every sign flip is counted; with more, 99,999 random ones."""

TIE: Final = 1e-12
"""Relative difference up to which two gains, or two sums of gains, count as equal."""

RESAMPLES: Final = 9_999
"""Bootstrap resamples of an interval."""

POWER: Final = 0.8
"""Chance that the further pairs we ask for settle the question, if effect and spread stay as measured."""


def level(look: int) -> float:
    """Return the level of the tests at a look.

    It is halved each time, so that all looks together are wrong with a chance of at most 2 x ALPHA.

    >>> level(1), level(2)
    (0.05, 0.025)
    """
    return ALPHA * 0.5 ** (look - 1)


def compare(
    baseline: Sequence[float],
    challenger: Sequence[float],
    min_effect: float,
    *,
    look: int = 1,
    luck: tuple[SearchLuck, SearchLuck] | None = None,
) -> Verdict:
    """Compare paired losses.

    ``helps``: the improvement is above 0 at the level of the look, 0.05 at first (exact one-sided sign-flip permutation
    test), its mean is at least ``min_effect`` of the baseline's mean, and the luck of the searches does not explain it
    (:func:`luck_interval`). ``hurts``: the mirror image. ``no_difference``: Student's interval of the improvement, 90 %
    at first, lies within plus or minus ``min_effect``. Otherwise ``inconclusive``.

    Args:
        baseline: Losses of the baseline, one for each seed; all finite.
        challenger: Losses of the challenger on the same seeds.
        min_effect: Smallest effect that counts, relative to the baseline's mean.
        look: How many times this comparison has been judged, including this time.
        luck: Of the search of the baseline and of that of the challenger; None leaves it out.

    Raises:
        ValueError: The lists differ in length, are shorter than 2, or hold a value that is not finite.

    >>> compare([1.0, 1.1, 1.2, 1.0, 1.1, 1.2], [0.5, 0.6, 0.6, 0.5, 0.5, 0.7], min_effect=0.01).word
    <Word.HELPS: 'helps'>
    """
    base, other = _paired(baseline, challenger)
    gains = base - other
    mean, scale = float(gains.mean()), abs(float(base.mean()))
    threshold = min_effect * scale
    alpha = level(look)
    p_helps, p_hurts = _sign_flip(gains, "greater"), _sign_flip(gains, "less")
    lower, upper = _t_interval(gains, 1 - 2 * alpha)
    band = None if luck is None else luck_interval(gains, luck, alpha)
    is_better = mean > TIE * float(abs(gains).sum())  # not by rounding alone, which depends on the unit
    is_significant = (p_helps if is_better else p_hurts) <= alpha
    is_luck = band is not None and band[0] <= 0 <= band[1]
    if is_significant and not is_luck and abs(mean) >= threshold:
        word = Word.HELPS if is_better else Word.HURTS
    elif -threshold <= lower and upper <= threshold:
        word = Word.NO_DIFFERENCE
    else:
        word = Word.INCONCLUSIVE
    return Verdict(
        word=word,
        pairs=len(gains),
        baseline_mean=float(base.mean()),
        challenger_mean=float(other.mean()),
        improvement=mean,
        relative_improvement=mean / scale if scale else None,
        min_effect=min_effect,
        interval=_bca_interval(gains, 0.95),
        p_helps=p_helps,
        p_hurts=p_hurts,
        luck_interval=band,
        luck=(mean - band[0] if is_better else band[1] - mean) / scale if band and scale else None,
        alpha=alpha,
        look=look,
        more_pairs=_more_pairs(gains, threshold, luck, level(look + 1)) if word is Word.INCONCLUSIVE else None,
        win_rate=float(((gains > 0) + 0.5 * (gains == 0)).mean()),
    )


def _paired(baseline: Sequence[float], challenger: Sequence[float]) -> tuple[Floats, Floats]:
    base, other = np.asarray(baseline, np.float64), np.asarray(challenger, np.float64)
    if base.shape != other.shape or base.ndim != 1 or len(base) < 2:
        got = f"got {len(baseline)} and {len(challenger)}"
        raise ValueError(f"the two lists must have the same length, 2 or more ({got})")
    if not (np.isfinite(base).all() and np.isfinite(other).all()):
        raise ValueError("every loss must be finite")
    return base, other


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order of ``p_values``.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _sign_flip(gains: Floats, alternative: Literal["greater", "less"]) -> float:
    if not gains.any():
        return 1.0
    from scipy import stats

    if len(gains) <= EXACT_PAIRS:
        return _exact_sign_flip(gains if alternative == "greater" else -gains)
    result = stats.permutation_test(
        (gains,),
        np.mean,
        permutation_type="samples",
        n_resamples=99_999,
        alternative=alternative,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def _exact_sign_flip(gains: Floats) -> float:
    """Return the share of all sign flips whose sum is at least the one that was seen.

    ``scipy.stats.permutation_test`` counts the same flips one by one. Here we list and sort the sums of each half of
    the pairs, so that 2^n flips cost about 2^(n/2).
    """
    first, second = (_signed_sums(half) for half in np.array_split(gains, 2))
    second.sort()
    slack = TIE * float(abs(gains).sum())
    at_least = len(second) - np.searchsorted(second, gains.sum() - slack - first, side="left")
    return float(at_least.sum() / (len(first) * len(second)))


def _signed_sums(gains: Floats) -> Floats:
    sums = np.zeros(1)
    for gain in gains:
        sums = np.concatenate((sums + gain, sums - gain))
    return sums


def _all_alike(gains: Floats) -> bool:
    """Tell whether the gains differ only by rounding, from which no interval can be computed."""
    return bool(gains.max() - gains.min() <= TIE * abs(gains).max())


def _bca_interval(gains: Floats, level: float) -> tuple[float, float]:
    if _all_alike(gains):
        return float(gains.min()), float(gains.max())
    from scipy import stats

    rng = np.random.default_rng(0)
    result = stats.bootstrap((gains,), np.mean, confidence_level=level, n_resamples=RESAMPLES, method="BCa", rng=rng)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95 % interval of a mean; None for fewer than two values."""
    return _t_interval(np.asarray(values, dtype=np.float64), 0.95) if len(values) > 1 else None


def _t_interval(gains: Floats, level: float) -> tuple[float, float]:
    """Return Student's interval. With 6 to 10 pairs the bootstrap's is too narrow to claim that two arms are equal."""
    if _all_alike(gains):
        return float(gains.min()), float(gains.max())
    from scipy import stats

    interval = stats.ttest_1samp(gains, 0.0).confidence_interval(level)
    return float(interval.low), float(interval.high)


def luck_interval(gains: Floats, luck: tuple[SearchLuck, SearchLuck], alpha: float) -> tuple[float, float]:
    """Return the interval of the improvement with the luck of both searches in it.

    Another search may miss the best trial; then the next best that it finds takes its place. Each resample draws that
    for both arms, and a mean from Student's distribution of the pairs.

    Args:
        gains: Improvements, one for each pair.
        luck: Of the search of the baseline and of that of the challenger.
        alpha: Share of the resamples that is left out on each side.
    """
    rng = np.random.default_rng(0)
    deviation = 0.0 if _all_alike(gains) else float(gains.std(ddof=1)) / np.sqrt(len(gains))
    means = gains.mean() + deviation * rng.standard_t(len(gains) - 1, RESAMPLES)
    of_baseline, of_challenger = (_drawn_penalties(search, rng) for search in luck)
    low, high = np.quantile(means + of_baseline - of_challenger, [alpha, 1 - alpha])
    return float(low), float(high)


def _drawn_penalties(search: SearchLuck, rng: np.random.Generator) -> Floats:
    """Draw which trial of a race would have won, and return its penalty, for each resample."""
    penalties = np.asarray(search.penalties, np.float64)
    found = rng.random((RESAMPLES, len(penalties))) < np.asarray(search.chances)
    winner = np.where(found.any(1), found.argmax(1), len(penalties) - 1)
    drawn: Floats = penalties[winner]
    return drawn


def _more_pairs(
    gains: Floats, threshold: float, luck: tuple[SearchLuck, SearchLuck] | None, alpha: float
) -> int | None:
    """Return how many further pairs Student's test needs for a clear word, if mean and spread stay as measured.

    None if a job cannot have as many, or if more pairs do not help: the luck of the searches stays as it is. ``alpha``
    is the level of the tests at the next look, when the further pairs would be judged.
    """
    from scipy import stats

    mean = abs(float(gains.mean()))
    beyond_luck = mean
    if luck is not None:
        low, high = luck_interval(np.full_like(gains, gains.mean()), luck, alpha)
        beyond_luck = low if gains.mean() > 0 else -high
    pairs = np.arange(len(gains) + 1, MAX_CONFIRM_SEEDS + 1)
    root = np.sqrt(pairs) / max(float(gains.std(ddof=1)), TIE * mean)
    student = stats.t(pairs - 1)
    critical = student.isf(alpha)
    if mean >= threshold:  # `helps` and `hurts` need a small p, no luck that explains it, and a mean that counts
        power = student.cdf(np.minimum(beyond_luck * root - critical, (mean - threshold) * root))
    else:  # `no_difference` needs both ends of the interval within the threshold
        below, above = (student.cdf(room * root - critical) for room in (threshold - mean, threshold + mean))
        power = below + above - 1
    enough = np.asarray(power >= POWER)
    return int(pairs[enough.argmax()]) - len(gains) if enough.any() else None
