"""The verdict of a job: does the challenger beat the baseline on paired runs?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Word(StrEnum):
    """The conclusion about the challenger."""

    HELPS = "helps"
    NO_DIFFERENCE = "no_difference"
    HURTS = "hurts"
    INCONCLUSIVE = "inconclusive"

    @property
    def answer(self) -> str:
        """The answer to "does P help?" in plain words."""
        match self:
            case Word.HELPS:
                return "Yes, P helps"
            case Word.HURTS:
                return "No, P hurts"
            case Word.NO_DIFFERENCE:
                return "No, P makes no difference that matters"
            case Word.INCONCLUSIVE:
                return "Not clear yet"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The comparison of a challenger with a baseline on paired runs. These are losses: lower is better.

    Attributes:
        word: The conclusion.
        reason: The conclusion in one sentence.
        pairs: Number of pairs that were compared.
        baseline_mean: Mean loss of the baseline.
        challenger_mean: Mean loss of the challenger.
        improvement: Mean of baseline minus challenger; positive is better.
        relative_improvement: The improvement divided by the baseline's mean; None if that mean is 0.
        interval: 95 % BCa bootstrap interval of the improvement.
        p_helps: One-sided sign-flip permutation p-value for an improvement above 0.
        p_hurts: The same for an improvement below 0.
        alpha: Level of the tests: 0.05 at the first look, half as much at each further one.
        look: How many times the pairs of this comparison have been judged, including this time.
        more_pairs: Further pairs that would settle an ``inconclusive`` comparison at the next look, four times in five.
            None if it is settled, or if even ``MOST_PAIRS`` pairs would not be enough.
        win_rate: Share of the pairs on which the challenger is better; a tie counts as half. It estimates the
            probability that a run with the challenger beats one without.
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
    alpha: float
    look: int
    more_pairs: int | None
    win_rate: float
