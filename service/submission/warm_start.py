# From the name of an earlier job to the P that a new one starts from: looked up once, at submission, checked against
# the new job's model, and written into its spec. Loads no torch: names, shapes and settings of a P are in the JSON that
# a safetensors file begins with. How a run starts from P is training/learned_p.py's business.
"""Warm starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from sqlalchemy import select

from service.artifacts import ArtifactStore
from service.data.catalog import DatasetInfo
from service.db.models import Job, RecommendationRow
from service.db.session import Database
from service.errors import FieldError, InvalidSpecError
from service.planning.plan import JobPlan, make_plan
from service.spec.data import ClassSubsetsSpec, FamilySpec
from service.spec.job import JobSpec, Override, Scalar, WarmStartSpec
from service.spec.model import PinnSpec, TransformerSpec
from service.states import JobState

SIZED_BY: Final = {"low_rank": "rank", "full": "block_size", "kronecker": "max_dim"}
"""Structure -> the number of the optimizer that decides the shape of its tensors."""

MOST_MISMATCHES: Final = 4
"""Tensors that one message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierP:
    """A P of an earlier job.

    Attributes:
        job_id: The job.
        content: The safetensors file.
        sha256: Its hash.
        config: The settings of the optimizer that learned it.
        shapes: Shape of each parameter that it is for, by name, in the order of the model.
    """

    job_id: str
    content: bytes
    sha256: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]


def plan_warm_start(
    db: Database, artifacts: ArtifactStore, spec: JobSpec, info: DatasetInfo | None
) -> tuple[JobPlan, bytes | None]:
    """Return the plan of a job, and the P that it starts from; None for a job without a warm start.

    The spec of the plan says which P that is, by its hash. Structure, placement and learner are fixed to those of P,
    and so is what decides the shape of its tensors.

    Args:
        db: The ledger's database.
        artifacts: Has the P of the earlier job.
        spec: The spec as it was sent.
        info: Facts about its dataset, if that was uploaded.

    Raises:
        InvalidSpecError: There is no such P, it does not fit the model or the search space, or it may have been learned
            on rows that this job judges by.
    """
    if spec.warm_start is None:
        return make_plan(spec, info), None
    found = _find(db, artifacts, spec.warm_start)
    _check_split(db, spec, found.job_id)
    warm = spec.warm_start.model_copy(update={"sha256": found.sha256})
    space = spec.search_space.model_copy(update={"overrides": _overrides(spec.search_space.overrides, found)})
    plan = make_plan(spec.model_copy(update={"warm_start": warm, "search_space": space}), info)
    misfits = list(_misfits(found.shapes, plan.spec.model.tensor_shapes(plan.info)))
    if misfits:
        more = [f"{len(misfits) - MOST_MISMATCHES} more"] if len(misfits) > MOST_MISMATCHES else []
        expected = f"a job whose P fits the model: {'; '.join([*misfits[:MOST_MISMATCHES], *more])}"
        raise InvalidSpecError(FieldError("warm_start.job", found.job_id, expected))
    return plan, found.content


def note(plan: JobPlan) -> str:
    """Return what a warm start means for a plan, in one sentence; nothing for a job without one."""
    warm, overrides = plan.spec.warm_start, plan.spec.search_space.overrides
    if warm is None:
        return ""
    decided = ("structure", "placement", "learner", SIZED_BY.get(str(overrides["structure"])))
    fixed = ", ".join(f"{name} {overrides[name]}" for name in decided if name)
    return (
        f"every run of the arms that learn P starts from the P of {warm.job} (SHA-256 {warm.sha256}), which fixes "
        f"{fixed}; the control shuffled_p, with as many trials and seconds, starts from the same P in wrong coordinates"
    )


def _find(db: Database, artifacts: ArtifactStore, wanted: WarmStartSpec) -> EarlierP:
    with db.read() as session:
        job = session.scalars(select(Job).where(Job.id == wanted.job)).one_or_none()
        row = session.get(RecommendationRow, wanted.job)
    if job is None:
        raise _wrong(wanted, "the id of a job: see GET /v1/jobs")
    if job.state != JobState.SUCCEEDED or row is None:
        raise _wrong(wanted, f"a job that has succeeded; this one is {job.state}")
    learned = row.data.get("learned_p")
    if learned is None:
        raise _wrong(
            wanted, f"a job that recommends a learned P; this one recommends {row.arm}, which has none to keep"
        )
    if wanted.sha256 not in (None, learned["sha256"]):
        expected = f"null, or {learned['sha256']}, that of the P of {wanted.job}"
        raise InvalidSpecError(FieldError("warm_start.sha256", wanted.sha256, expected))
    content = artifacts.get(wanted.job, learned["file"])
    if content is None or hashlib.sha256(content).hexdigest() != learned["sha256"]:
        raise _wrong(wanted, "a job whose P is in the artifact store; the file of this one is gone or was changed")
    described = describe_p(content)
    shapes = {name: tuple(parameter["shape"]) for name, parameter in described["parameters"].items()}
    return EarlierP(
        job_id=wanted.job, content=content, sha256=learned["sha256"], config=described["config"], shapes=shapes
    )


def _check_split(db: Database, spec: JobSpec, job_id: str) -> None:
    """Refuse a split by which rows that P was learned on, in this job or one before it, would be rows that judge."""
    if isinstance(spec.model, PinnSpec | TransformerSpec):
        return  # the points of an equation are others with each seed; a text is cut without one
    own = spec.model_dump(mode="json")
    with db.read() as session:
        while job_id and (job := session.scalars(select(Job).where(Job.id == job_id)).one_or_none()) is not None:
            there = _split_by(job.spec) if _sources(own) & _sources(job.spec) else {}
            for name, value in _split_by(own).items():
                if there.get(name, value) != value:
                    also = f"the {name} of {job_id}: by another split its P may have seen the rows that judge"
                    raise InvalidSpecError(FieldError(name, value, f"{there[name]!r}, {also}"))
            job_id = (job.spec.get("warm_start") or {}).get("job", "")


def _split_by(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides, beside its data, which rows and tasks of a stored spec judge."""
    family = spec.get("family") or {}
    named = {"seed": spec.get("seed", 0)}
    if family.get("group_by") is not None:
        named |= {"family.group_by": family["group_by"], "family.bins": family.get("bins", FamilySpec().bins)}
    if (subsets := family.get("class_subsets")) is not None:
        named["family.class_subsets.tasks"] = subsets.get("tasks", ClassSubsetsSpec().tasks)
    return named


def _sources(spec: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """Return what names the data of a stored spec, whatever is predicted from it."""
    datasets = (spec.get("family") or {}).get("datasets") or [spec.get("dataset") or {}]
    return {tuple(str(dataset.get(name)) for name in ("name", "id", "entrypoint")) for dataset in datasets}


def _wrong(wanted: WarmStartSpec, expected: str) -> InvalidSpecError:
    return InvalidSpecError(FieldError("warm_start.job", wanted.job, expected))


def describe_p(content: bytes) -> dict[str, Any]:
    """Return ``config`` and ``parameters`` of a P from the header of its file, as ``warpadam.save_warp`` wrote them."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    described: dict[str, Any] = json.loads(header["__metadata__"]["content"])
    return described


def _overrides(given: Mapping[str, Override], found: EarlierP) -> dict[str, Override]:
    """Return the overrides with those that P decides."""
    own: dict[str, Scalar] = {facet: found.config[facet] for facet in ("structure", "placement", "learner")}
    if sized := SIZED_BY.get(str(own["structure"])):
        own[sized] = found.config[sized]
    if "rank" in own:  # more columns than the largest tensor has rows were never there
        own["rank"] = min(int(own["rank"]), max(shape[0] for shape in found.shapes.values() if len(shape) > 1))
    errors, chosen = [], dict(given)
    for name, value in own.items():
        fits = [value, "frozen"] if name == "learner" and value != "whitening" else [value]
        wished = given.get(name, value)
        if any(item not in fits for item in (wished if isinstance(wished, list) else [wished])):
            expected = f"{value!r}, as the P of {found.job_id} has it, or no override"
            errors.append(FieldError(f"search_space.overrides.{name}", _plain(wished), expected))
        chosen[name] = wished if name == "learner" else value
    if errors:
        raise InvalidSpecError(*errors)
    return chosen


def _plain(value: Override) -> object:
    return value if isinstance(value, str | int | float | list) else value.model_dump(exclude_none=True)


def _misfits(learned: Mapping[str, tuple[int, ...]], shapes: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """Yield what of a P is not as in the model; parameters are compared in the order of the model."""
    for item, shape in zip_longest(learned.items(), shapes):
        if item is None:
            yield f"a tensor of shape {shape} has no P"
        elif item[1] != shape:
            yield f"{item[0]} is {item[1]} in P and {shape or 'missing'} in the model"
