"""Repeats whole verdicts on a dense table: two searches for the same optimizer, their races and a comparison.

The second arm's losses are multiplied by a factor, so that it is truly that much better; with 1 the arms are equal and
every `helps` or `hurts` is wrong. Both arms are compared on splits that their searches did not use.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from benchmarks.search.searches import DenseTable, Race, search, starts
from service.recommend.verdict import compare
from service.result.job_result import Word

FACTORS: Final = (1.0, 0.97, 0.95, 0.9, 0.8)

MIN_EFFECT: Final = 0.01

LARGE: Final = 2_000
"""Rows from which a verdict should see a difference of 10 %."""

PAIRS: Final = 8
"""Splits on which the finalists are compared, as in a default job."""

CLEAR: Final = 0.01
"""p-value from which the grids tell which arm is better."""

TRUTH_SPLITS: Final = 3


def words(table: DenseTable, repeats: int, *, with_luck: bool = True) -> dict[float, Counter[Word]]:
    """Return how often each word was said, by the factor of the second arm's losses."""
    said: dict[float, Counter[Word]] = {factor: Counter() for factor in FACTORS}
    for split, seed, others in starts(table, repeats):
        races = [Race(table, search(table, split, 2 * seed + arm), split, others) for arm in (0, 1)]
        baseline, challenger = (table.test[race.winner, others[-PAIRS:]] for race in races)
        for factor in FACTORS:
            verdict = compare(
                baseline.tolist(),
                (factor * challenger).tolist(),
                MIN_EFFECT,
                luck=(races[0].luck, races[1].luck) if with_luck else None,
            )
            said[factor][verdict.word] += 1
    return said


def against_truth(baseline: DenseTable, challenger: DenseTable) -> list[str]:
    """Return what verdicts on three splits say, each after what is true; nothing if the truth is not clear.

    True is what the best config of each grid by validation over all splits shows on the test parts of all of them, if
    that is clear. It is `helps` or `hurts` from an effect of ``MIN_EFFECT`` on, otherwise `no_difference`.
    """
    best = [table.test[table.reference] for table in (baseline, challenger)]
    grids = compare(best[0].tolist(), best[1].tolist(), MIN_EFFECT)
    is_clear = min(grids.p_helps, grids.p_hurts) < CLEAR or grids.word is Word.NO_DIFFERENCE
    if not is_clear or grids.word is Word.INCONCLUSIVE:
        return []
    said = []
    for split in range(TRUTH_SPLITS):
        others = np.random.default_rng(split).permutation(np.delete(np.arange(baseline.splits), split)).tolist()
        races = [Race(table, search(table, split, split), split, others) for table in (baseline, challenger)]
        luck = (races[0].luck, races[1].luck)
        base = baseline.test[races[0].winner, others[-PAIRS:]].tolist()
        other = challenger.test[races[1].winner, others[-PAIRS:]].tolist()
        said.append(f"{grids.word} -> {compare(base, other, MIN_EFFECT, luck=luck).word}")
    return said
