# Rows of uploaded datasets. Whether a job uses one is asked in the transaction that deletes it or submits the job, so
# that no job is left without its data. The files are the artifact store's.
"""Uploaded datasets in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.data.catalog import DATASETS, DatasetInfo
from service.data.facts import ColumnKind, DatasetFacts, dataset_info
from service.db.models import DatasetRow, Job
from service.db.session import Database
from service.errors import ConflictError, FieldError, InvalidSpecError, NotFoundError
from service.planning.family import Member, check_groups, info_of_datasets
from service.spec.data import DatasetSpec
from service.spec.job import JobSpec
from service.states import ENDED_JOB

FAMILY_OF: Final = "family of "
"""How the data of a job on a family of datasets is called, and how many follows."""


def find(db: Database, dataset_id: str) -> DatasetRow | None:
    """Return the row of a dataset; None if there is none."""
    with db.read() as session:
        return session.scalars(select(DatasetRow).where(DatasetRow.id == dataset_id)).one_or_none()


def require(db: Database, dataset_id: str) -> DatasetRow:
    """Return the row of a dataset.

    Raises:
        NotFoundError: There is none.
    """
    row = find(db, dataset_id)
    if row is None:
        raise NotFoundError(f"there is no dataset {dataset_id!r}")
    return row


def add(db: Database, row: DatasetRow) -> tuple[DatasetRow, bool]:
    """Store a row; return it, or the one that another upload of the same content has stored, and whether it is new."""
    try:
        with db.write() as session:
            session.add(row)
    except IntegrityError:
        return require(db, row.id), False
    return row, True


def page(session: Session, limit: int, before: int | None) -> Sequence[DatasetRow]:
    """Return datasets, the newest first, with ``seq`` below ``before``."""
    query = select(DatasetRow).order_by(DatasetRow.seq.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(DatasetRow.seq < before)).all()


def delete(db: Database, dataset_id: str, delete_files: Callable[[str], None]) -> None:
    """Delete a dataset with its files; what was cut short can be sent again.

    Raises:
        NotFoundError: There is none.
        ConflictError: A job that has not ended uses it.
    """
    with db.write() as session:
        row = session.scalars(select(DatasetRow).where(DatasetRow.id == dataset_id).with_for_update()).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no dataset {dataset_id!r}")
        uses = or_(Job.dataset == dataset_id, Job.dataset.startswith(FAMILY_OF))
        open_jobs = session.execute(select(Job.id, Job.spec).where(uses, Job.state.not_in(ENDED_JOB)))
        job_id = next((job_id for job_id, spec in open_jobs if dataset_id in uploaded_by(spec)), None)
        if job_id is not None:
            raise ConflictError(f"job {job_id} uses dataset {dataset_id} and has not ended: cancel it first")
        delete_files(dataset_id)
        session.delete(row)


def info_for(db: Database, spec: JobSpec) -> DatasetInfo | None:
    """Return what a plan needs to know about the data of a job; None for a bundled dataset.

    Raises:
        InvalidSpecError: There is no such dataset, it has no such target, or those of a family do not go together.
    """
    chosen = spec.datasets
    if all(given.id is None or given.name is not None for given in chosen.values()):
        return None
    known = {place: given for place, given in chosen.items() if given.id is not None or given.name in DATASETS}
    members = [_member(db, place, given) for place, given in known.items()]
    if len(members) < len(chosen):
        return None  # the check of the spec says what is wrong with the others
    if "dataset" not in chosen:
        return info_of_datasets(members)
    if spec.family is not None and spec.family.group_by is not None:
        check_groups(members[0], spec.family.group_by, spec.family.bins)
    return members[0].info


def _member(db: Database, place: str, given: DatasetSpec) -> Member:
    if given.id is None:
        return Member(label=given.label, info=DATASETS[given.label])
    row = find(db, given.id)
    if row is None:
        expected = "the id of an uploaded dataset: see GET /v1/datasets"
        raise InvalidSpecError(FieldError(f"{place}.id", given.id, expected))
    facts = DatasetFacts.from_json(row.facts)
    try:
        info = dataset_info(facts, given)
    except InvalidSpecError as error:
        moved = (replace(wrong, field=wrong.field.replace("dataset", place, 1)) for wrong in error.errors)
        raise InvalidSpecError(*moved) from error
    categories = {column.name for column in facts.columns if column.kind is ColumnKind.CATEGORY}
    counts = {column.name: column.levels for column in facts.columns if column.levels is not None}
    return Member(label=given.id, info=info, categories=frozenset(categories), counts=counts)


def label_of(spec: Mapping[str, Any]) -> str:
    """Return what the data of a job is called, from its stored spec."""
    many = (spec.get("family") or {}).get("datasets")
    if many:
        return f"{FAMILY_OF}{len(many)} datasets"
    chosen = spec["dataset"]
    return str(chosen["name"] or chosen.get("id") or chosen.get("entrypoint"))


def uploaded_by(spec: Mapping[str, Any]) -> list[str]:
    """Return the ids of the uploaded datasets that a job uses, from its stored spec, in the order to lock them in."""
    chosen = (spec.get("family") or {}).get("datasets") or [spec["dataset"]]
    return sorted({given["id"] for given in chosen if given.get("id") is not None})


def lock(session: Session, dataset_id: str) -> None:
    """Keep a dataset from being deleted until the transaction has ended.

    Raises:
        ConflictError: It was deleted.
    """
    if session.scalar(select(DatasetRow.seq).where(DatasetRow.id == dataset_id).with_for_update()) is None:
        raise ConflictError(f"dataset {dataset_id} was deleted")
