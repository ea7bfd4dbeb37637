"""Trials of an earlier job that a sampler knows from the start, and the file of the new job that holds them.

They are looked up once, at submission, and stored with the job. So the search stays the same when another worker goes
on with it, and when the earlier job is deleted. They never enter the ledger's trials of the new job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic import TypeAdapter
from sqlalchemy import select

from search_spaces import Scalar, SearchSpace
from service.artifacts import ArtifactStore
from service.db.models import Trial
from service.db.session import Database
from service.errors import FieldError, InvalidSpecError
from service.ledger.jobs import find_job
from service.ledger.made_with import Versions, made_with
from service.planning.arms import MORE_STEPS
from service.planning.objective import TIMED, or_worst
from service.planning.plan import JobPlan, plan_of
from service.spec.job import JobSpec
from service.states import ENDED_JOB, TrialState
from service.version import versions

EARLIER_TRIALS_FILE: Final = "earlier-trials.json"
"""Name of the artifact with the trials that seed a job's samplers."""

MOST_TRIALS: Final = 500
"""Trials of an arm that are taken over, the first ones: the best alone would mislead a sampler."""

TRIED_AGAIN: Final = 5
"""Configs of an arm that are tried first if values of the earlier job cannot be compared with those of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTrial:
    """A completed trial of an earlier job: its number, parameters, cost, training time and validation loss there.

    The loss is None if the service that ran it did not store one.
    """

    number: int
    params: dict[str, Scalar]
    value: float
    seconds: float
    val_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTrials:
    """What one arm takes over.

    Attributes:
        job_id: The earlier job.
        comparable: Whether the values of its trials can be compared with those of this job.
        trials: The trials.
        made_with: The versions that all of them were made with; empty if they are not known, or not the same.
    """

    job_id: str
    comparable: bool
    trials: tuple[EarlierTrial, ...]
    made_with: dict[str, str] = field(default_factory=dict)

    def best(self) -> list[dict[str, Scalar]]:
        """Return the configs to try first: the best ones, if their values cannot be taken over."""
        ranked = sorted(self.trials, key=lambda trial: (trial.value, or_worst(trial.val_loss), trial.number))
        return [] if self.comparable else [trial.params for trial in ranked[:TRIED_AGAIN]]


_FILE: Final = TypeAdapter(dict[str, EarlierTrials])
"""What is in the file: what each arm takes over."""


def read_earlier_trials(artifacts: ArtifactStore, job_id: str, arm: str) -> EarlierTrials | None:
    """Return what an arm of a job takes over; None if there is nothing.

    Values can be compared only with those of a worker that has the same versions as this process.
    """
    content = artifacts.get(job_id, EARLIER_TRIALS_FILE)
    found = None if content is None else _FILE.validate_json(content).get(arm)
    if found is None or found.made_with == versions():
        return found
    return replace(found, comparable=False)


def find_earlier_trials(db: Database, plan: JobPlan) -> bytes | None:
    """Return the file with the trials that a job takes over; None if its spec names no earlier job.

    Raises:
        InvalidSpecError: There is no such job, it has not ended, or it has other arms or search spaces.
        OtherVersionError: Another version of the service stored the earlier job.
    """
    job_id = plan.spec.search.from_job
    if job_id is None:
        return None
    with db.read() as session:
        job = find_job(session, job_id)
        complete = (Trial.job_id == job_id, Trial.state == TrialState.COMPLETE, Trial.value.is_not(None))
        rows = session.scalars(select(Trial).where(*complete).order_by(Trial.number)).all()
        made = made_with(session, job_id).trials
    if job is None:
        raise _wrong(job_id, "names no job", "GET /v1/jobs lists the jobs.", "unknown_name")
    if job.state not in ENDED_JOB:
        raise _wrong(job_id, f"must name a job that has ended; this one is {job.state}")
    earlier = plan_of(job.spec, job.dataset_info)
    spaces = {arm.name: arm.space for arm in earlier.arms}
    for arm in plan.arms:
        if arm.name not in spaces:
            raise _wrong(job_id, f"must name a job that has the arm {arm.name}; this one has {', '.join(spaces)}")
        if differences := "; ".join(_differences(spaces[arm.name], arm.space)):
            message = f"must name a job whose arm {arm.name} has the same search space: {differences}"
            raise _wrong(job_id, message)
    if not rows:
        raise _wrong(job_id, "must name a job with completed trials; this one has none")
    by_arm: dict[str, list[EarlierTrial]] = {}
    for row in rows:
        costs = {"value": row.value or 0.0, "seconds": row.seconds}
        trial = EarlierTrial(number=row.number, params=dict(row.params), val_loss=row.val_loss, **costs)
        by_arm.setdefault(row.arm, []).append(trial)
    taken = {
        name: EarlierTrials(
            job_id=job_id,
            comparable=_comparable(earlier, plan, name),
            trials=tuple(trials[:MOST_TRIALS]),
            made_with=_common([made.get(trial.number, {}) for trial in trials[:MOST_TRIALS]]),
        )
        for name, trials in by_arm.items()
    }
    return _FILE.dump_json(taken)


def _common(made: Sequence[Versions]) -> dict[str, str]:
    """Return the versions of all trials of an arm; empty if they are not the same."""
    return dict(made[0]) if all(one == made[0] for one in made) else {}


def _wrong(job_id: str, message: str, hint: str | None = None, code: str = "conflict") -> InvalidSpecError:
    return InvalidSpecError(FieldError("search.from_job", job_id, message, hint, code))


def _differences(there: SearchSpace, here: SearchSpace) -> Iterator[str]:
    """Say which parameters differ between the earlier job's space and this one's, and how."""
    for name in dict.fromkeys((*there.names, *here.names)):
        if name not in there:
            yield f"{name} is not tuned there"
        elif name not in here:
            yield f"{name} is tuned only there"
        elif there[name].domain != here[name].domain:
            yield f"{name} is {there[name].domain} there and {here[name].domain} here"
        elif there[name].when != here[name].when:
            yield f"{name} is tuned when {there[name].when or 'ever'} there and {here[name].when or 'ever'} here"


def _comparable(there: JobPlan, here: JobPlan, arm: str) -> bool:
    """Tell whether a config costs the same in both jobs, except for chance."""
    if arm == MORE_STEPS or "baseline" in (there.spec.objective.target, here.spec.objective.target):
        return False  # each job finds out for itself how many steps, or which target, that is
    return _what_costs(there.spec) == _what_costs(here.spec) and there.info.sources == here.info.sources


def _what_costs(spec: JobSpec) -> tuple[object, ...]:
    """Return all that the cost of a config depends on: data, split, model, loss and length of a run."""
    max_seconds = spec.budget.max_seconds if spec.objective.metric in TIMED else None
    run = (spec.training, spec.seed, spec.budget.steps, spec.budget.batch_size, max_seconds)
    return (spec.dataset, spec.model, spec.family, spec.warm_start, spec.objective, *run)
