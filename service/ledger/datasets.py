"""Rows of uploaded datasets.

Whether a job uses a dataset is asked in the transaction that deletes the dataset or queues the job, so that no job is
left without its data. The files are in the artifact store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Final

from pydantic import JsonValue
from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.db.models import DatasetRow, Job
from service.db.session import EVERY_PROJECT, Database
from service.errors import ConflictError, NotFoundError, OtherVersionError
from service.spec.job import JobSpec
from service.spec.models import LoopSpec
from service.states import ENDED_JOB

FAMILY_OF: Final = "family of "
"""How the label of a job on a family of datasets begins; the number of datasets follows."""


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


def add(
    db: Database, row: DatasetRow, put_files: Callable[[], None], has_files: Callable[[DatasetRow], bool]
) -> tuple[DatasetRow, bool]:
    """Store a dataset unless another upload of the same content has stored it; return its row and whether it is new.

    A stored dataset that has lost files gets them again. Files are put in the transaction that writes the row: another
    upload or a deletion waits for it, so neither leaves a row without files.
    """
    try:
        with db.write() as session:
            earlier = session.scalars(select(DatasetRow).where(DatasetRow.id == row.id).with_for_update()).one_or_none()
            if earlier is None:
                session.add(row)
                session.flush()
                put_files()
            elif not has_files(earlier):
                earlier.facts, earlier.stored_bytes = row.facts, row.stored_bytes
                session.flush()
                put_files()
    except IntegrityError:  # another upload came between the look and the row
        return require(db, row.id), False
    return earlier or row, earlier is None


def page(session: Session, limit: int, before: int | None) -> Sequence[DatasetRow]:
    """Return datasets, the newest first, with ``seq`` below ``before``."""
    query = select(DatasetRow).order_by(DatasetRow.seq.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(DatasetRow.seq < before)).all()


def delete(
    db: Database, dataset_id: str, taken_files: Callable[[str], AbstractContextManager[Callable[[], None]]]
) -> None:
    """Delete a dataset with its files.

    The files are taken out of their folder in the transaction, so that another upload of the same content puts its own
    there. They are deleted after it, because that may take long; if it fails, they are put back.

    Args:
        db: The ledger.
        dataset_id: The dataset.
        taken_files: ``ArtifactStore.taken_dataset``.

    Raises:
        NotFoundError: There is none.
        ConflictError: A job that has not ended uses it.
    """
    with taken_files(dataset_id) as take, db.write() as session:
        row = session.scalars(select(DatasetRow).where(DatasetRow.id == dataset_id).with_for_update()).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no dataset {dataset_id!r}")
        job_id = _open_job_with(session, dataset_id)
        if job_id is not None:
            if session.scalar(select(Job.seq).where(Job.id == job_id)) is None:
                raise ConflictError(f"a job of an admin uses dataset {dataset_id} and has not ended")
            raise ConflictError(f"job {job_id} uses dataset {dataset_id} and has not ended: cancel it first")
        session.delete(row)
        session.flush()  # fails, if it does, while the files are there
        take()


def unused(session: Session, before: datetime) -> list[str]:
    """Return the ids of the datasets that were uploaded before a moment and that no job uses, ended or not."""
    old = session.scalars(select(DatasetRow.id).where(DatasetRow.created_at < before)).all()
    if not old:
        return []
    used = set(session.scalars(select(Job.dataset).where(Job.dataset.in_(old))))
    families = session.scalars(select(Job.spec).where(Job.dataset.startswith(FAMILY_OF)))
    used.update(dataset_id for spec in families for dataset_id in _used_by(spec, old))
    return [dataset_id for dataset_id in old if dataset_id not in used]


def _open_job_with(session: Session, dataset_id: str) -> str | None:
    """Return a job that has not ended and uses a dataset, also one of an admin's project; None if there is none."""
    may_use = or_(Job.dataset == dataset_id, Job.dataset.startswith(FAMILY_OF))
    open_jobs = select(Job.id, Job.dataset, Job.spec).where(may_use, Job.state.not_in(ENDED_JOB))
    for job_id, label, spec in session.execute(open_jobs, execution_options={EVERY_PROJECT: True}):
        if label == dataset_id or _used_by(spec, [dataset_id]):
            return job_id
    return None


def lock_those_of(session: Session, spec: JobSpec) -> None:
    """Keep the uploaded datasets of a job from being deleted until the transaction has ended.

    Raises:
        ConflictError: One was deleted.
    """
    for dataset_id in _uploads_of(spec):
        if session.scalar(select(DatasetRow.seq).where(DatasetRow.id == dataset_id).with_for_update()) is None:
            raise ConflictError(f"dataset {dataset_id} was deleted")


def label_of(spec: JobSpec) -> str:
    """Return what lists of jobs call the data of a job."""
    if spec.family is not None and spec.family.datasets:
        return f"{FAMILY_OF}{len(spec.family.datasets)} datasets"
    return spec.model.entrypoint if isinstance(spec.model, LoopSpec) else spec.dataset.label


def _used_by(spec: Mapping[str, JsonValue], dataset_ids: Collection[str]) -> set[str]:
    """Return which of some datasets a stored spec uses: those that it names at all, if another version stored it."""
    try:
        return set(_uploads_of(JobSpec.from_json(spec))).intersection(dataset_ids)
    except OtherVersionError:
        text = json.dumps(spec)
        return {dataset_id for dataset_id in dataset_ids if json.dumps(dataset_id) in text}


def _uploads_of(spec: JobSpec) -> list[str]:
    """Return the ids of the uploaded datasets of a job, always in the same order, so that two jobs cannot deadlock."""
    return sorted({chosen.id for chosen in spec.datasets.values() if chosen.id is not None})
