"""Picks the trial that represents each arm."""

from __future__ import annotations

from collections import Counter

from service.db.models import Trial
from service.errors import JobFailedError
from service.planning.objective import Objective
from service.recommend.recommendation import Finalist, best_trials
from service.running.context import JobContext


def best_of_arm(job: JobContext, arm: str, count: int) -> list[Trial]:
    """Return the best completed trials of an arm, at most ``count``.

    Raises:
        JobFailedError: The arm completed none.
    """
    trials = job.record.trials(arm)
    best = best_trials(trials, count)
    if not best:
        counts = ", ".join(f"{n} {state}" for state, n in Counter(str(t.state) for t in trials).items()) or "none"
        causes = [trial.cause for trial in trials if trial.cause]
        last = f"; the last cause: {causes[-1]}" if causes else ""
        raise JobFailedError(f"arm {arm} completed no trial (trials: {counts}){last}")
    return best


def finalists_by_search(job: JobContext, best: list[Trial], objective: Objective) -> list[Finalist]:
    """Return the best trial of each arm as its finalist, with its cost under the job's final objective.

    AdamW's search may have had another one: where AdamW sets the target, its own search had none yet.
    """
    curves = job.record.curves([trial.id for trial in best])
    costs = [objective.cost(curves[trial.id]) for trial in best]
    return [
        Finalist(trial, (trial.value or 0.0) if cost is None else cost) for trial, cost in zip(best, costs, strict=True)
    ]
