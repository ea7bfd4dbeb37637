# The statistics, and the word. Pure functions of two lists of paired losses; scipy does the arithmetic and is loaded
# when there is some: the API shows verdicts without it. Knows nothing of jobs, arms or how the losses came about.
"""Whether one optimizer beats another on paired runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

ALPHA: Final = 0.05
"""Level of the one-sided tests."""

EXACT_PAIRS: Final = 40
"""Up to this many pairs every sign flip is counted; above it 99,999 random ones are."""

TIE: Final = 1e-12
"""Relative difference up to which two sums of gains are taken for equal."""

SAME: Final = 1e-12
"""Relative spread up to which gains are taken for equal."""

RESAMPLES: Final = 9_999
"""Bootstrap resamples of an interval."""

POWER: Final = 0.8
"""Chance that the pairs which are asked for settle what these did not, if effect and spread are what they seem."""

MOST_PAIRS: Final = 1_000
"""Above this many pairs no number is given: the difference is too small to be worth them."""


class Word(StrEnum):
    """What the pairs say about the challenger."""

    HELPS = "helps"
    NO_DIFFERENCE = "no_difference"
    HURTS = "hurts"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The comparison of a challenger with a baseline on paired runs; losses, so lower is better.

    Attributes:
        word: The conclusion.
        reason: The conclusion in one sentence.
        pairs: Number of pairs that were compared.
        baseline_mean: Mean loss of the baseline.
        challenger_mean: Mean loss of the challenger.
        improvement: Mean of baseline minus challenger; positive is better.
        relative_improvement: The same, divided by the baseline's mean; None if that is 0.
        interval: 95 % BCa bootstrap interval of the improvement.
        p_helps: One-sided sign-flip permutation p-value that the improvement is above 0.
        p_hurts: The same for below 0.
        alpha: Level of the tests: 0.05 at the first look, half as much at each further one.
        look: How many times the pairs of this comparison have been judged, this time included.
        more_pairs: Further pairs that would settle an ``inconclusive`` comparison four times in five at the next look;
            None when it is settled, or when no number up to ``MOST_PAIRS`` would do.
        win_rate: Share of the pairs on which the challenger is better, ties counted half: an estimate of the
            probability that a run with it beats one without.
    """

    word: Word
    reason: str
    pairs: int
    baseline_mean: float
    challenger_mean: float
    improvement: float
    relative_improvement: float | None
    interval: tuple[float, float]
    p_helps: float
    p_hurts: float
    alpha: float = ALPHA
    look: int = 1
    more_pairs: int | None = None
    win_rate: float = 0.5


def level(look: int) -> float:
    """Return the level of the tests at a look: halved each time, so that all looks together err at most in 2 x ALPHA.

    >>> level(1), level(2)
    (0.05, 0.025)
    """
    return ALPHA * 0.5 ** (look - 1)


def compare(
    baseline: Sequence[float], challenger: Sequence[float], min_effect: float, *, look: int = 1, noun: str = "test loss"
) -> Verdict:
    """Compare paired losses.

    ``helps``: the improvement is above 0 at the level of the look, 0.05 at first (exact one-sided sign-flip permutation
    test), and its mean at least ``min_effect`` of the baseline's mean. ``hurts``: the mirror image. ``no_difference``:
    Student's interval of the improvement, 90 % at first, lies within plus or minus ``min_effect``. Otherwise
    ``inconclusive``.

    Args:
        baseline: Losses of the baseline, one a seed; all finite.
        challenger: Losses of the challenger on the same seeds.
        min_effect: Smallest effect that counts, relative to the baseline's mean.
        look: How many times this comparison has been judged, this time included.
        noun: What the losses are called in the reason.

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
    if p_helps <= alpha and mean >= threshold and mean > 0:
        word = Word.HELPS
    elif p_hurts <= alpha and -mean >= threshold and mean < 0:
        word = Word.HURTS
    elif -threshold <= lower and upper <= threshold:
        word = Word.NO_DIFFERENCE
    else:
        word = Word.INCONCLUSIVE
    low, high = _bca_interval(gains, 0.95)
    relative = mean / scale if scale else None
    more = _more_pairs(gains, threshold, level(look + 1)) if word is Word.INCONCLUSIVE else None
    return Verdict(
        word=word,
        reason=_reason(word, mean, relative, min_effect, len(gains), noun) + _footnote(word, look, more),
        pairs=len(gains),
        baseline_mean=float(base.mean()),
        challenger_mean=float(other.mean()),
        improvement=mean,
        relative_improvement=relative,
        interval=(low, high),
        p_helps=p_helps,
        p_hurts=p_hurts,
        alpha=alpha,
        look=look,
        more_pairs=more,
        win_rate=float(((gains > 0) + 0.5 * (gains == 0)).mean()),
    )


def _paired(baseline: Sequence[float], challenger: Sequence[float]) -> tuple[Floats, Floats]:
    import numpy as np

    base, other = np.asarray(baseline, np.float64), np.asarray(challenger, np.float64)
    if base.shape != other.shape or base.ndim != 1 or len(base) < 2:
        raise ValueError(f"expected two lists of the same length, 2 or more, got {len(baseline)} and {len(challenger)}")
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
    import numpy as np
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

    ``scipy.stats.permutation_test`` counts the same one by one. Here the sums of either half of the pairs are listed
    and sorted, so that 2^n flips cost about 2^(n/2).
    """
    import numpy as np

    first, second = (_signed_sums(half) for half in np.array_split(gains, 2))
    second.sort()
    slack = TIE * float(abs(gains).sum())
    at_least = len(second) - np.searchsorted(second, gains.sum() - slack - first, side="left")
    return float(at_least.sum() / (len(first) * len(second)))


def _signed_sums(gains: Floats) -> Floats:
    import numpy as np

    sums = np.zeros(1)
    for gain in gains:
        sums = np.concatenate((sums + gain, sums - gain))
    return sums


def _all_alike(gains: Floats) -> bool:
    """Tell whether the gains differ in their last digits at most: no interval can be computed from rounding."""
    return bool(gains.max() - gains.min() <= SAME * abs(gains).max())


def _bca_interval(gains: Floats, level: float) -> tuple[float, float]:
    if _all_alike(gains):
        return float(gains.min()), float(gains.max())
    import numpy as np
    from scipy import stats

    rng = np.random.default_rng(0)
    result = stats.bootstrap((gains,), np.mean, confidence_level=level, n_resamples=RESAMPLES, method="BCa", rng=rng)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _t_interval(gains: Floats, level: float) -> tuple[float, float]:
    """Student's interval: with 6 to 10 pairs the bootstrap's is too narrow to claim that two arms are equal."""
    if _all_alike(gains):
        return float(gains.min()), float(gains.max())
    from scipy import stats

    interval = stats.ttest_1samp(gains, 0.0).confidence_interval(level)
    return float(interval.low), float(interval.high)


def _more_pairs(gains: Floats, threshold: float, alpha: float) -> int | None:
    """Return how many pairs are missing for a word, by Student's test, if mean and spread are what they seem.

    Args:
        gains: The pairs so far.
        threshold: Smallest mean that counts.
        alpha: Level of the tests at the look that the missing pairs would be judged at, the next one.
    """
    import numpy as np
    from scipy import stats

    mean = abs(float(gains.mean()))
    pairs = np.arange(len(gains) + 1, MOST_PAIRS + 1)
    root = np.sqrt(pairs) / max(float(gains.std(ddof=1)), SAME * mean)
    student = stats.t(pairs - 1)
    critical = student.isf(alpha)
    if mean >= threshold:  # `helps` or `hurts` take both a small p and a mean that counts
        power = student.cdf(np.minimum(mean * root - critical, (mean - threshold) * root))
    else:  # `no_difference` takes both ends of the interval
        low, high = (student.cdf(room * root - critical) for room in (threshold - mean, threshold + mean))
        power = low + high - 1
    enough = np.asarray(power >= POWER)
    return int(pairs[enough.argmax()]) - len(gains) if enough.any() else None


def _reason(word: Word, mean: float, relative: float | None, min_effect: float, pairs: int, noun: str) -> str:
    amount = f"{abs(mean):.3g}" if relative is None else f"{abs(relative):.1%}"
    change = f"{amount} {'lower' if mean >= 0 else 'higher'}"
    match word:
        case Word.HELPS | Word.HURTS:
            return f"the {noun} is {change} on {pairs} fresh paired seeds, and that is significant"
        case Word.NO_DIFFERENCE:
            return f"on {pairs} fresh paired seeds the {noun} differs by less than {min_effect:.1%}"
        case _:
            return f"the mean {noun} is {change}, but {pairs} fresh paired seeds do not settle it"


def _footnote(word: Word, look: int, more: int | None) -> str:
    note = f" (look {look}, tested at level {level(look):g})" if look > 1 else ""
    if word is not Word.INCONCLUSIVE:
        return note
    wanted = f"{more} more would" if more else f"even {MOST_PAIRS} would hardly"
    return f"{note}; {wanted}, if effect and spread are what they seem"
