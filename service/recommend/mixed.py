"""Says in which way a job mixes versions of the code: an update in the middle of it, or workers that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.db.models import ConfirmRun
from service.ledger.made_with import MadeWith, Versions, is_judged
from service.recommend.findings import Searched
from service.recommend.recommendation import Finalist
from service.version import differences


def about_versions(
    made: MadeWith, searched: Sequence[Searched], finalists: Sequence[Finalist], runs: Sequence[ConfirmRun]
) -> Iterator[str]:
    """Say which trials, and which runs of the finalists, were made with other versions than those of this worker."""
    trials = [trial for item in searched for trial in item.trials if is_judged(trial)]
    others = [made.of(trial) for trial in trials if made.of(trial) != made.worker]
    if others:
        yield (
            f"{len(others)} of the {len(trials)} trials of the search were made with {_different(others, made)}, so "
            "other settings may be better now; submit the job again to search with one version"
        )
    of_finalists = {finalist.trial.number for finalist in finalists}
    judged = [run for run in runs if run.trial_number in of_finalists and is_judged(run)]
    old = [made.of(run) for run in judged if made.of(run) != made.worker]
    if old:
        yield (
            f"{len(old)} of the {len(judged)} runs on fresh seeds were made with {_different(old, made)}, so this "
            "answer mixes versions; submit the job again, with the same versions on all workers"
        )


def _different(others: Sequence[Versions], made: MadeWith) -> str:
    return " or ".join(sorted({differences(other, made.worker) for other in others}))
