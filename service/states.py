"""States of jobs, arms and trials, and the moves between them.

The values are stored in the database: add some, never rename one::

    job:    queued -> running -> verifying -> succeeded      any of the first three -> cancelled | failed
                      running | verifying -> queued          its worker was stopped, or it gave way, and was given back
                      any of the first three -> paused       its user paused it
                      paused -> queued | cancelled           it was resumed, stopped or cancelled
                      succeeded -> queued                    it was extended: more trials, seeds or seconds
                      failed | cancelled -> queued           it was retried
    arm:    queued -> running -> complete                    queued | running -> stopped, with its job
                      complete -> queued                     its job was extended by trials or seconds
                      stopped -> queued                      its job was retried
    trial:  queued -> running -> complete | pruned | diverged | failed      (a confirmation run too)
                      running -> queued                      its process or its worker died
                      failed | pruned -> queued              its job was retried; pruned only by the end of the job
                      failed -> deleted, and run again       a confirmation run whose job was extended

``VERBS`` says in which states of a job its user may do what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    VERIFYING = "verifying"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ArmState(StrEnum):
    """State of an arm of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"


class TrialState(StrEnum):
    """State of a trial, and of a confirmation run."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"


ACTIVE_JOB: Final = (JobState.RUNNING, JobState.VERIFYING)
ENDED_JOB: Final = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
LIVE_TRIAL: Final = (TrialState.QUEUED, TrialState.RUNNING)
ENDED_TRIAL: Final = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.DIVERGED, TrialState.FAILED)


@dataclass(frozen=True, slots=True)
class Verb:
    """What a user may do to a job.

    Attributes:
        allowed: States in which it has its effect.
        refusal: What to say in other states.
        already: States in which there is nothing to do: the answer is the job as it is.
    """

    allowed: tuple[JobState, ...]
    refusal: str
    already: tuple[JobState, ...] = ()


_MOVES: Final = (JobState.QUEUED, *ACTIVE_JOB)

VERBS: Final[Mapping[str, Verb]] = {
    "stop": Verb(
        (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED),
        "only a job that has not ended can be stopped",
        (JobState.VERIFYING,),
    ),
    "pause": Verb(_MOVES, "only a job that has not ended can be paused", (JobState.PAUSED,)),
    "resume": Verb((JobState.PAUSED,), "only a paused job can be resumed", _MOVES),
    "cancel": Verb((*_MOVES, JobState.PAUSED), "only a job that has not ended can be cancelled", (JobState.CANCELLED,)),
    "retry": Verb(
        (JobState.FAILED, JobState.CANCELLED), "only a job that has failed or was cancelled can be retried", _MOVES
    ),
    "extend": Verb((JobState.SUCCEEDED,), "only a job that has succeeded can be extended"),
    "delete": Verb((JobState.QUEUED, JobState.PAUSED, *ENDED_JOB), "cancel it first, then delete it"),
}
"""What a user may do to a job, by the name of the request. docs/jobs.md has the table for people."""


def count_ended(runs: Mapping[str, int] | Mapping[TrialState, int]) -> int:
    """Return how many trials or runs have ended, from their number by state."""
    return sum(runs.get(state, 0) for state in ENDED_TRIAL)
