"""Finds the trials that a new job takes over from an earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import select

from search_spaces import SearchSpace
from service.db.models import Trial
from service.db.session import Database
from service.errors import FieldError, InvalidSpecError
from service.ledger.jobs import find_job
from service.planning.arms import MORE_STEPS
from service.planning.earlier_trials import EarlierTrial, EarlierTrials, pack_earlier_trials
from service.planning.objective import TIMED
from service.planning.plan import JobPlan, plan_of
from service.spec.job import JobSpec
from service.states import ENDED_JOB, TrialState

MOST_TRIALS: Final = 500
"""Trials of an arm that are taken over, the first ones: the best alone would mislead a sampler."""


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
    if job is None:
        raise _wrong(job_id, "names no job", "GET /v1/jobs lists the jobs.", "unknown_name")
    if job.state not in ENDED_JOB:
        raise _wrong(job_id, f"must name a job that has ended; this one is {job.state}")
    earlier = plan_of(job.spec, job.dataset_info)
    _check_spaces(job_id, earlier, plan)
    if not rows:
        raise _wrong(job_id, "must name a job with completed trials; this one has none")
    by_arm: dict[str, list[EarlierTrial]] = {}
    for row in rows:
        trial = EarlierTrial(number=row.number, params=dict(row.params), value=row.value or 0.0, seconds=row.seconds)
        by_arm.setdefault(row.arm, []).append(trial)
    return pack_earlier_trials(
        {
            arm: EarlierTrials(
                job_id=job_id, comparable=_comparable(earlier, plan, arm), trials=tuple(trials[:MOST_TRIALS])
            )
            for arm, trials in by_arm.items()
        }
    )


def _wrong(job_id: str, message: str, hint: str | None = None, code: str = "conflict") -> InvalidSpecError:
    return InvalidSpecError(FieldError("search.from_job", job_id, message, hint, code))


def _check_spaces(job_id: str, earlier: JobPlan, plan: JobPlan) -> None:
    spaces = {arm.name: arm.space for arm in earlier.arms}
    for arm in plan.arms:
        if arm.name not in spaces:
            raise _wrong(job_id, f"must name a job that has the arm {arm.name}; this one has {', '.join(spaces)}")
        differences = list(_differences(spaces[arm.name], arm.space))
        if differences:
            raise _wrong(
                job_id, f"must name a job whose arm {arm.name} has the same search space: {'; '.join(differences)}"
            )


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
