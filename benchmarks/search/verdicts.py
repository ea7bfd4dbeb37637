"""Repeats whole verdicts on a dense table: two searches for the same optimizer, their races and a comparison.

The second arm's losses are multiplied by a factor, so that it is truly that much better; with 1 the arms are equal and
every `helps` or `hurts` is wrong. Both arms are compared on splits that their searches did not use.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from benchmarks.search.searches import TRIALS, DenseTable, Race, search, starts
from service.recommend.verdict import SearchLuck, compare
from service.result.job_result import Word

FACTORS: Final = (1.0, 0.97, 0.95, 0.9, 0.8)

MIN_EFFECT: Final = 0.01


def words(table: DenseTable, repeats: int, *, with_luck: bool = True) -> dict[float, Counter[Word]]:
    """Return how often each word was said, by the factor of the second arm's losses."""
    said: dict[float, Counter[Word]] = {factor: Counter() for factor in FACTORS}
    for split, seed, others in starts(table, repeats):
        races = [Race(table, search(table, split, 2 * seed + arm), others) for arm in (0, 1)]
        luck = [SearchLuck(race.penalties, TRIALS) for race in races]
        baseline, challenger = (table.test[race.winner, others] for race in races)
        for factor in FACTORS:
            verdict = compare(
                baseline.tolist(),
                (factor * challenger).tolist(),
                MIN_EFFECT,
                luck=(luck[0], luck[1]) if with_luck else None,
            )
            said[factor][verdict.word] += 1
    return said
