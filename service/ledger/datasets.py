# Rows of uploaded datasets. Whether a job uses one is asked in the transaction that deletes it or submits the job, so
# that no job is left without its data. The files are the artifact store's.
"""Uploaded datasets in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.data_schemas import DatasetSpec
from service.db.models import DatasetRow, Job
from service.db.session import Database
from service.errors import ConflictError, FieldError, InvalidSpecError, NotFoundError
from service.states import ENDED_JOB
from service.training.catalog import DatasetInfo
from service.training.facts import DatasetFacts, dataset_info


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
        open_job = select(Job.id).where(Job.dataset == dataset_id, Job.state.not_in(ENDED_JOB)).limit(1)
        job_id = session.scalar(open_job)
        if job_id is not None:
            raise ConflictError(f"job {job_id} uses dataset {dataset_id} and has not ended: cancel it first")
        delete_files(dataset_id)
        session.delete(row)


def info_for(db: Database, spec: DatasetSpec) -> DatasetInfo | None:
    """Return what a plan needs to know about the uploaded dataset of a job; None for a bundled one.

    Raises:
        InvalidSpecError: There is no such dataset, or it has no such target.
    """
    if spec.id is None:
        return None
    row = find(db, spec.id)
    if row is None:
        raise InvalidSpecError(FieldError("dataset.id", spec.id, "the id of an uploaded dataset: see GET /v1/datasets"))
    return dataset_info(DatasetFacts.from_json(row.facts), spec)


def lock(session: Session, dataset_id: str) -> None:
    """Keep a dataset from being deleted until the transaction has ended.

    Raises:
        ConflictError: It was deleted.
    """
    if session.scalar(select(DatasetRow.seq).where(DatasetRow.id == dataset_id).with_for_update()) is None:
        raise ConflictError(f"dataset {dataset_id} was deleted")
