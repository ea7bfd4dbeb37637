"""Warm starts: from the name of an earlier job to the P that a new one starts from.

P is looked up once, at submission, checked against the new job's model, and named in its spec by a hash. The names,
shapes and settings of a P are in the JSON header of its safetensors file, so no torch is needed here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, TypedDict

from sqlalchemy.orm import Session

from service.db.models import RecommendationRow
from service.errors import FieldError, InvalidSpecError, conflict
from service.ledger.jobs import find_job
from service.planning.family import KINDS
from service.planning.plan import JobPlan, make_plan
from service.result.job_result import JobResult
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec, Override, Scalar, WarmStartSpec
from service.spec.models import PinnSpec, TransformerSpec
from service.states import JobState
from service.submission import Context

SIZED_BY: Final = {"low_rank": "rank", "full": "block_size", "kronecker": "max_dim"}
"""Structure -> the number of the optimizer that decides the shape of its tensors."""

MOST_MISMATCHES: Final = 4
"""Tensors that one message names."""


class PHeader(TypedDict):
    """The header of a P file: the settings of the optimizer that learned P, and the parameters it is for, in order."""

    config: dict[str, Scalar]
    parameters: dict[str, dict[str, list[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierP:
    """A P of an earlier job: its file with the hash, its settings, the shapes of its parameters in their order."""

    job_id: str
    content: bytes
    sha256: str
    config: Mapping[str, Scalar]
    shapes: Mapping[str, tuple[int, ...]]


def plan_warm_start(context: Context, spec: JobSpec, info: DatasetInfo | None) -> tuple[JobPlan, bytes | None]:
    """Return the plan of a job and the file of the P that it starts from; None for a job without a warm start.

    The spec of the plan names P by its hash. P fixes structure, placement, learner and the number that decides the
    shape of its tensors. ``info`` are the facts about uploaded data and user code; None if the job has neither.

    Raises:
        InvalidSpecError: There is no such P, it does not fit the model or the search space, or it may have been learned
            on rows that this job judges by.
        OtherVersionError: Another version of the service stored the earlier job.
    """
    if spec.warm_start is None:
        return make_plan(spec, info), None
    found = _find(context, spec.warm_start)
    with context.db.read() as session:
        _check_split(session, spec, found.job_id)
    warm = spec.warm_start.model_copy(update={"sha256": found.sha256})
    space = spec.search_space.model_copy(update={"overrides": _overrides(spec.search_space.overrides, found)})
    plan = make_plan(spec.model_copy(update={"warm_start": warm, "search_space": space}), info)
    misfits = list(_misfits(found.shapes, plan.spec.model.tensor_shapes(plan.info)))
    if misfits:
        more = [f"{len(misfits) - MOST_MISMATCHES} more"] if len(misfits) > MOST_MISMATCHES else []
        listed = "; ".join([*misfits[:MOST_MISMATCHES], *more])
        raise _wrong(found.job_id, f"must name a job whose P fits the model: {listed}")
    return plan, found.content


def note(spec: JobSpec, warm: WarmStartSpec) -> str:
    """Say in one sentence what the warm start of a plan's spec means."""
    overrides = spec.search_space.overrides
    decided = ("structure", "placement", "learner", SIZED_BY.get(str(overrides["structure"])))
    fixed = ", ".join(f"{name} {overrides[name]}" for name in decided if name)
    return (
        f"every run of the arms that learn P starts from the P of {warm.job} (SHA-256 {warm.sha256}), which fixes "
        f"{fixed}; the control shuffled_p, with as many trials and seconds, starts from the same P in wrong coordinates"
    )


def _find(context: Context, wanted: WarmStartSpec) -> EarlierP:
    with context.db.read() as session:
        job = find_job(session, wanted.job)
        row = session.get(RecommendationRow, wanted.job)
    if job is None:
        raise _wrong(wanted.job, "names no job", "GET /v1/jobs lists the jobs.", "unknown_name")
    if job.state != JobState.SUCCEEDED or row is None:
        raise _wrong(wanted.job, f"must name a job that has succeeded; this one is {job.state}")
    learned = JobResult.from_json(row.data).learned_p
    if learned is None:
        recommends = f"this one recommends {row.arm}, which has none to keep"
        raise _wrong(wanted.job, f"must name a job that recommends a learned P; {recommends}")
    sha256 = learned.sha256
    if wanted.sha256 not in (None, sha256):
        message = f"must be null, or {sha256}, that of the P of {wanted.job}"
        raise InvalidSpecError(conflict("warm_start.sha256", wanted.sha256, message))
    content = context.artifacts.get(wanted.job, learned.file)
    if content is None or hashlib.sha256(content).hexdigest() != sha256:
        gone = "the file of this one is gone or was changed"
        raise _wrong(wanted.job, f"must name a job whose P is in the artifact store; {gone}")
    header = describe_p(content)
    shapes = {name: tuple(parameter["shape"]) for name, parameter in header["parameters"].items()}
    return EarlierP(job_id=wanted.job, content=content, sha256=sha256, config=header["config"], shapes=shapes)


def _wrong(job_id: str, message: str, hint: str | None = None, code: str = "conflict") -> InvalidSpecError:
    return InvalidSpecError(FieldError("warm_start.job", job_id, message, hint, code))


def _check_split(session: Session, spec: JobSpec, job_id: str | None) -> None:
    """Refuse a split in which rows that P was learned on, in this job or one before it, would judge.

    What a deleted job before it was about is unknown. But the job that started from that one was submitted with the
    same split of all data that both had, so its data is safe.
    """
    if isinstance(spec.model, PinnSpec | TransformerSpec):
        return  # an equation has new points with each seed; a text is cut at the same place with every seed
    earlier: JobSpec | None = None
    while job_id is not None:
        job = find_job(session, job_id)
        if job is None:
            if earlier is None or not _sources(spec) <= _sources(earlier):
                given = spec.warm_start and spec.warm_start.job
                message = f"must name a job whose P can be followed back: it comes from {job_id}, which was deleted"
                hint = (
                    "The deleted job may have learned from the rows that judge. Only the data of the later job is safe."
                )
                raise InvalidSpecError(conflict("warm_start.job", given, message, hint))
            return
        earlier = JobSpec.from_json(job.spec)
        if _sources(spec) & _sources(earlier):
            _check_alike(spec, earlier, job_id)
        job_id = earlier.warm_start.job if earlier.warm_start is not None else None


def _check_alike(spec: JobSpec, earlier: JobSpec, job_id: str) -> None:
    """Refuse a job that divides the data that it shares with an earlier one in another way."""
    kind, needed = _kind(spec), _kind(earlier)
    if kind != needed:
        message = f"must have {needed}, as that of {job_id}" if needed else f"must be null: {job_id} has none"
        hint = (
            "Each way to make tasks holds out other rows, and the P of that job may have seen the rows that judge here."
        )
        raise InvalidSpecError(conflict("family", kind, message, hint))
    hint = "With another split, the P of that job may have seen the rows that judge."
    there = _split_by(earlier)
    for name, value in _split_by(spec).items():
        if there.get(name, value) != value:  # a spec with two kinds is refused later, and has more names
            raise InvalidSpecError(conflict(name, value, f"must be {there[name]!r}, the {name} of {job_id}", hint))


def _kind(spec: JobSpec) -> str | None:
    """Return what the tasks of a job's family are made by; None for a job without a family."""
    return next((kind for kind in KINDS if spec.family is not None and getattr(spec.family, kind) is not None), None)


def _split_by(spec: JobSpec) -> dict[str, Scalar | None]:
    """Return what decides, besides the data, which rows and tasks of a job judge."""
    decided: dict[str, Scalar | None] = {"seed": spec.seed}
    if spec.family is None:
        decided |= {f"dataset.split.{name}": value for name, value in spec.dataset.split.model_dump().items()}
    family = spec.family
    if family is not None and family.group_by is not None:
        decided |= {"family.group_by": family.group_by, "family.bins": family.bins}
    if family is not None and family.class_subsets is not None:
        decided["family.class_subsets.tasks"] = family.class_subsets.tasks
    return decided


def _sources(spec: JobSpec) -> set[tuple[str | None, ...]]:
    """Return what names the data of a job, whatever is predicted from it."""
    return {(chosen.name, chosen.id, chosen.entrypoint) for chosen in spec.datasets.values()}


def describe_p(content: bytes) -> PHeader:
    """Return the header of a P file, as ``warpadam.save_warp`` wrote it."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    described: PHeader = json.loads(header["__metadata__"]["content"])
    return described


def _overrides(given: Mapping[str, Override], found: EarlierP) -> dict[str, Override]:
    """Return the overrides of a spec together with those that P fixes."""
    config = found.config
    fixed: dict[str, Scalar] = {facet: config[facet] for facet in ("structure", "placement", "learner")}
    if sized := SIZED_BY.get(str(fixed["structure"])):
        fixed[sized] = config[sized]
    if "rank" in fixed:  # P has no more columns than its largest tensor has rows
        rows = max((shape[0] for shape in found.shapes.values() if len(shape) > 1), default=1)
        fixed["rank"] = min(int(fixed["rank"]), rows)
    errors, chosen = [], dict(given)
    for name, value in fixed.items():
        fits = [value, "frozen"] if name == "learner" and value != "whitening" else [value]
        wished = given.get(name, value)
        if any(item not in fits for item in (wished if isinstance(wished, list) else [wished])):
            message = f"must be {value!r}, as the P of {found.job_id} has it, or no override"
            errors.append(conflict(f"search_space.overrides.{name}", _plain(wished), message))
        chosen[name] = wished if name == "learner" else value
    if errors:
        raise InvalidSpecError(*errors)
    return chosen


def _plain(value: Override) -> object:
    return value if isinstance(value, str | int | float | list) else value.model_dump(exclude_none=True)


def _misfits(learned: Mapping[str, tuple[int, ...]], shapes: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """Say where P and the model differ; parameters are compared in the order of the model."""
    for item, shape in zip_longest(learned.items(), shapes):
        if item is None:
            yield f"a tensor of shape {shape} has no P"
        elif item[1] != shape:
            yield f"{item[0]} is {item[1]} in P and {shape or 'missing'} in the model"
