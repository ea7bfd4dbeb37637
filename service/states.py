"""States of jobs, arms and trials, and the moves between them.

The values are stored in the database: add some, never rename one::

    job:    queued -> running -> verifying -> succeeded      any of the first three -> cancelled | failed
                      running | verifying -> queued          its worker was stopped and gave it back
                      succeeded -> queued                    it was extended: more trials, seeds or seconds
    arm:    queued -> running -> complete                    queued | running -> stopped, with its job
                      complete -> queued                     its job was extended by trials or seconds
    trial:  queued -> running -> complete | pruned | diverged | failed      (a confirmation run too)
                      running -> queued                      its process or its worker died
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    VERIFYING = "verifying"
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


def count_ended(runs: Mapping[str, int] | Mapping[TrialState, int]) -> int:
    """Return how many trials or runs have ended, from their number by state."""
    return sum(runs.get(state, 0) for state in ENDED_TRIAL)
