"""Trials of an earlier job that a sampler knows from the start, and the file of the new job that holds them.

They are looked up once, at submission, and stored with the job. So the search stays the same when another worker goes
on with it, and when the earlier job is deleted. They never enter the ledger's trials of the new job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from search_spaces import Scalar
from service.artifacts import ArtifactStore

EARLIER_TRIALS_FILE: Final = "earlier-trials.json"
"""Name of the artifact with the trials that seed a job's samplers."""

TRIED_AGAIN: Final = 5
"""Configs of an arm that are tried first if values of the earlier job cannot be compared with those of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTrial:
    """A completed trial of an earlier job.

    Attributes:
        number: Its number in that job.
        params: What it was given.
        value: What it cost there.
        seconds: Its training time.
    """

    number: int
    params: dict[str, Scalar]
    value: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTrials:
    """What one arm takes over.

    Attributes:
        job_id: The earlier job.
        comparable: Whether the values of its trials can be compared with those of this job.
        trials: The trials.
    """

    job_id: str
    comparable: bool
    trials: tuple[EarlierTrial, ...]

    def best(self) -> list[dict[str, Scalar]]:
        """Return the configs to try first: the best ones, if their values cannot be taken over."""
        ranked = sorted(self.trials, key=lambda trial: (trial.value, trial.number))
        return [] if self.comparable else [trial.params for trial in ranked[:TRIED_AGAIN]]


def pack_earlier_trials(by_arm: Mapping[str, EarlierTrials]) -> bytes:
    """Return the file with what each arm takes over."""
    return json.dumps({arm: asdict(taken) for arm, taken in by_arm.items()}).encode()


def read_earlier_trials(artifacts: ArtifactStore, job_id: str, arm: str) -> EarlierTrials | None:
    """Return what an arm of a job takes over; None if there is nothing."""
    content = artifacts.get(job_id, EARLIER_TRIALS_FILE)
    stored = None if content is None else json.loads(content).get(arm)
    if stored is None:
        return None
    return EarlierTrials(**{**stored, "trials": tuple(EarlierTrial(**trial) for trial in stored["trials"])})
