# The end of a job: its studies, its files, its rows, in this order, so that a deletion that was cut short can be sent
# again and finishes the rest.
"""Deletion of a job with everything that belongs to it."""

from __future__ import annotations

from service.artifacts import ArtifactStore
from service.db.session import Database
from service.db.studies import Studies, study_name
from service.ledger import jobs, queries


def delete_job(db: Database, studies: Studies, artifacts: ArtifactStore, job_id: str) -> None:
    """Delete a job that no worker is on.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It is running: cancel it first.
    """
    jobs.close_for_deletion(db, job_id)
    with db.read() as session:
        names = {study_name(job_id, summary.arm.name) for summary in queries.arm_summaries(session, job_id)}
    studies.delete(names)
    artifacts.delete_job(job_id)
    jobs.delete_row(db, job_id)
