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

EXACT_PAIRS: Final = 16
"""Up to this many pairs every sign flip is counted; above it 99,999 random ones are."""

SAME: Final = 1e-12
"""Relative spread up to which gains are taken for equal."""

RESAMPLES: Final = 9_999
"""Bootstrap resamples of an interval."""


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


def compare(baseline: Sequence[float], challenger: Sequence[float], min_effect: float) -> Verdict:
    """Compare paired losses.

    ``helps``: the improvement is above 0 at level 0.05 (exact one-sided sign-flip permutation test) and its mean at
    least ``min_effect`` of the baseline's mean. ``hurts``: the mirror image. ``no_difference``: Student's 90 % interval
    of the improvement lies within plus or minus ``min_effect``. Otherwise ``inconclusive``.

    Args:
        baseline: Losses of the baseline, one a seed; all finite.
        challenger: Losses of the challenger on the same seeds.
        min_effect: Smallest effect that counts, relative to the baseline's mean.

    Raises:
        ValueError: The lists differ in length, are shorter than 2, or hold a value that is not finite.

    >>> compare([1.0, 1.1, 1.2, 1.0, 1.1, 1.2], [0.5, 0.6, 0.6, 0.5, 0.5, 0.7], min_effect=0.01).word
    <Word.HELPS: 'helps'>
    """
    import numpy as np

    base, other = np.asarray(baseline, np.float64), np.asarray(challenger, np.float64)
    if base.shape != other.shape or base.ndim != 1 or len(base) < 2:
        raise ValueError(f"expected two lists of the same length, 2 or more, got {len(baseline)} and {len(challenger)}")
    if not (np.isfinite(base).all() and np.isfinite(other).all()):
        raise ValueError("every loss must be finite")
    gains = base - other
    mean, scale = float(gains.mean()), abs(float(base.mean()))
    threshold = min_effect * scale
    p_helps, p_hurts = _sign_flip(gains, "greater"), _sign_flip(gains, "less")
    low90, high90 = _t_interval(gains, 0.90)
    if p_helps <= ALPHA and mean >= threshold and mean > 0:
        word = Word.HELPS
    elif p_hurts <= ALPHA and -mean >= threshold and mean < 0:
        word = Word.HURTS
    elif -threshold <= low90 and high90 <= threshold:
        word = Word.NO_DIFFERENCE
    else:
        word = Word.INCONCLUSIVE
    low, high = _bca_interval(gains, 0.95)
    relative = mean / scale if scale else None
    return Verdict(
        word=word,
        reason=_reason(word, mean, relative, min_effect, len(gains)),
        pairs=len(gains),
        baseline_mean=float(base.mean()),
        challenger_mean=float(other.mean()),
        improvement=mean,
        relative_improvement=relative,
        interval=(low, high),
        p_helps=p_helps,
        p_hurts=p_hurts,
    )


def _sign_flip(gains: Floats, alternative: Literal["greater", "less"]) -> float:
    if not gains.any():
        return 1.0
    import numpy as np
    from scipy import stats

    resamples = 1 << len(gains) if len(gains) <= EXACT_PAIRS else 99_999
    result = stats.permutation_test(
        (gains,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        alternative=alternative,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


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


def _reason(word: Word, mean: float, relative: float | None, min_effect: float, pairs: int) -> str:
    amount = f"{abs(mean):.3g}" if relative is None else f"{abs(relative):.1%}"
    change = f"{amount} {'lower' if mean >= 0 else 'higher'}"
    match word:
        case Word.HELPS | Word.HURTS:
            return f"the test loss is {change} on {pairs} fresh paired seeds, and that is significant"
        case Word.NO_DIFFERENCE:
            return f"on {pairs} fresh paired seeds the test loss differs by less than {min_effect:.1%}"
        case _:
            return f"the mean test loss is {change}, but {pairs} fresh paired seeds do not settle it"
