"""Which versions made the trials and runs of a job, as its events tell.

Each claim notes the versions of its worker. What ends before the next claim was made with them, because a run that
goes on with another worker uses no checkpoint of other versions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db.models import ConfirmRun, Event, Trial
from service.states import TrialState

Versions = Mapping[str, str]
"""Name of a distribution -> its version; empty for a worker that noted none."""

RunKey = tuple[str, int, int]
"""Phase, number of the trial and seed of a confirmation run."""

_QUEUED_BY_USER: Final = ("submitted", "extended", "retried", "resumed")


@dataclass(frozen=True, slots=True)
class MadeWith:
    """The versions of the worker that owns a job, and those that its ended trials and runs were made with.

    Attributes:
        worker: Versions of the worker that claimed the job last.
        trials: Versions by the number of a trial.
        runs: Versions by confirmation run.
        ends: How often each run has ended since a user queued the job.
    """

    worker: Versions = field(default_factory=dict)
    trials: Mapping[int, Versions] = field(default_factory=dict)
    runs: Mapping[RunKey, Versions] = field(default_factory=dict)
    ends: Mapping[RunKey, int] = field(default_factory=dict)

    def to_repeat(self, runs: Sequence[ConfirmRun]) -> list[ConfirmRun]:
        """Return the judged runs that were made with other versions than those of the worker.

        A run is repeated once. Otherwise, two workers with different versions that take turns would never end the job.
        """
        judged = [run for run in runs if is_judged(run)]
        return [run for run in judged if self.of(run) != self.worker and self.ends.get(key_of(run), 0) <= 1]

    def of(self, row: Trial | ConfirmRun) -> Versions:
        """Return the versions that a trial or a run was made with; empty if they are not known."""
        return self.trials.get(row.number, {}) if isinstance(row, Trial) else self.runs.get(key_of(row), {})


def is_judged(row: Trial | ConfirmRun) -> bool:
    """Tell whether a trial or a run has ended with figures.

    A failed one has none, such as one that killed workers; nor has a run that the end of its job has cut off.
    """
    return row.state in (TrialState.COMPLETE, TrialState.DIVERGED, *[TrialState.PRUNED] * isinstance(row, Trial))


def key_of(run: ConfirmRun) -> RunKey:
    """Return what tells a run from the others of its job."""
    return run.phase, run.trial_number, run.seed


def made_with(session: Session, job_id: str) -> MadeWith:
    """Return which versions made what has ended in a job.

    Cost: reads an event for each trial, run and claim of the job.
    """
    kinds = (*_QUEUED_BY_USER, "claimed", "trial_finished", "run_finished")
    wanted = select(Event.kind, Event.data).where(Event.job_id == job_id, Event.kind.in_(kinds)).order_by(Event.id)
    worker: Versions = {}
    trials: dict[int, Versions] = {}
    runs: dict[RunKey, Versions] = {}
    ends = Counter[RunKey]()
    for kind, data in session.execute(wanted):
        if kind == "claimed":
            worker = data.get("versions", {})
        elif kind == "trial_finished":
            trials[data["trial"]] = worker
        elif kind == "run_finished":
            key = data["phase"], data["trial"], data["seed"]
            runs[key] = worker
            ends[key] += 1
        else:
            ends.clear()
    return MadeWith(worker, trials, runs, ends)
