# What a search may know from an earlier job: its completed trials, looked up and written down once, at submission, so
# that the search is the same whoever goes on with it and whatever becomes of that job. How they are shown to a sampler
# is in projection.py; nothing of them enters the ledger's trials.
"""Trials of an earlier job that seed the sampler."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import select

from search_spaces import Scalar, SearchSpace
from service.artifacts import ArtifactStore
from service.db.models import Job, Trial
from service.db.session import Database
from service.errors import FieldError, InvalidSpecError
from service.planning.arms import MORE_STEPS
from service.planning.objective import TIMED
from service.planning.plan import JobPlan, plan_of
from service.spec.job import JobSpec
from service.states import ENDED_JOB, TrialState

EARLIER_TRIALS_FILE: Final = "earlier-trials.json"
"""Name of the artifact with the trials that seed a job's samplers."""

MOST_TRIALS: Final = 500
"""Trials of an arm that are taken over, the first ones: the best alone would mislead a sampler."""

TRIED_AGAIN: Final = 5
"""Configs of an arm that are tried first where values of the earlier job cannot be compared with those of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTrial:
    """A completed trial of an earlier job.

    Attributes:
        number: Its number there.
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
        comparable: Whether what its trials cost can be compared with what those of this job cost.
        trials: The trials.
    """

    job_id: str
    comparable: bool
    trials: tuple[EarlierTrial, ...]

    def best(self) -> list[dict[str, Scalar]]:
        """Return the configs to try first: the best ones, where their values cannot be taken over."""
        ranked = sorted(self.trials, key=lambda trial: (trial.value, trial.number))
        return [] if self.comparable else [trial.params for trial in ranked[:TRIED_AGAIN]]


def find_earlier_trials(db: Database, plan: JobPlan) -> bytes | None:
    """Return the file with the trials that a job takes over; None if its spec names no earlier job.

    Raises:
        InvalidSpecError: There is no such job, it has not ended, or its arms or search spaces are others.
    """
    job_id = plan.spec.search.from_job
    if job_id is None:
        return None
    with db.read() as session:
        job = session.scalars(select(Job).where(Job.id == job_id)).one_or_none()
        complete = (Trial.job_id == job_id, Trial.state == TrialState.COMPLETE, Trial.value.is_not(None))
        rows = session.scalars(select(Trial).where(*complete).order_by(Trial.number)).all()
    if job is None:
        raise _wrong(job_id, "the id of a job: see GET /v1/jobs")
    if job.state not in ENDED_JOB:
        raise _wrong(job_id, f"a job that has ended; this one is {job.state}")
    earlier = plan_of(job.spec, job.dataset_info)
    for arm in plan.arms:
        there = next((other.space for other in earlier.arms if other.name == arm.name), None)
        if there is None:
            names = ", ".join(other.name for other in earlier.arms)
            raise _wrong(job_id, f"a job that has the arm {arm.name}; this one has {names}")
        if differences := list(_differences(there, arm.space)):
            raise _wrong(job_id, f"a job whose arm {arm.name} has the same search space: {'; '.join(differences)}")
    if not rows:
        raise _wrong(job_id, "a job with completed trials; this one has none")
    by_arm: dict[str, list[EarlierTrial]] = {}
    for row in rows:
        trial = EarlierTrial(number=row.number, params=dict(row.params), value=row.value or 0.0, seconds=row.seconds)
        by_arm.setdefault(row.arm, []).append(trial)
    found = {
        arm: asdict(EarlierTrials(job_id=job_id, comparable=_comparable(earlier, plan, arm), trials=tuple(trials)))
        for arm, trials in ((arm, trials[:MOST_TRIALS]) for arm, trials in by_arm.items())
    }
    return json.dumps(found).encode()


def read_earlier_trials(artifacts: ArtifactStore, job_id: str, arm: str) -> EarlierTrials | None:
    """Return what an arm of a job takes over; None if there is nothing."""
    content = artifacts.get(job_id, EARLIER_TRIALS_FILE)
    stored = None if content is None else json.loads(content).get(arm)
    if stored is None:
        return None
    return EarlierTrials(**{**stored, "trials": tuple(EarlierTrial(**trial) for trial in stored["trials"])})


def _wrong(job_id: str, expected: str) -> InvalidSpecError:
    return InvalidSpecError(FieldError("search.from_job", job_id, expected))


def _differences(there: SearchSpace, here: SearchSpace) -> Iterator[str]:
    """Yield in which parameters two spaces are not the same."""
    for name in dict.fromkeys((*there.names, *here.names)):
        if name not in there:
            yield f"{name} is not tuned there"
        elif name not in here:
            yield f"{name} is tuned there only"
        elif there[name].domain != here[name].domain:
            yield f"{name} is {there[name].domain} there and {here[name].domain} here"
        elif there[name].when != here[name].when:
            yield f"{name} is tuned when {there[name].when or 'ever'} there and {here[name].when or 'ever'} here"


def _comparable(there: JobPlan, here: JobPlan, arm: str) -> bool:
    """Tell whether a config costs the same in both jobs, but for chance: same data, split, model, loss and length."""
    if arm == MORE_STEPS or "baseline" in (there.spec.objective.target, here.spec.objective.target):
        return False  # how many steps, or what target that is, each job finds out anew
    return _what_costs(there.spec) == _what_costs(here.spec) and there.info.sources == here.info.sources


def _what_costs(spec: JobSpec) -> Mapping[str, Any]:
    body = spec.to_json()
    parts = {name: body[name] for name in ("dataset", "model", "family", "warm_start", "objective", "training", "seed")}
    timed = ("max_seconds",) if spec.objective.metric in TIMED else ()
    return parts | {name: body["budget"][name] for name in ("steps", "batch_size", *timed)}
