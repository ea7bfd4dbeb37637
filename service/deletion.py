"""Cancels and deletes jobs together with what belongs to them.

A job's studies are deleted first, then its files, then its rows. So a deletion that was cut short can be repeated and
does the rest.
"""

from __future__ import annotations

from service.artifacts import ArtifactStore
from service.db.session import Database
from service.db.studies import Studies, study_name
from service.ledger import jobs, queries
from service.states import JobState


def cancel_job(db: Database, artifacts: ArtifactStore, job_id: str) -> None:
    """Cancel a job: at once if no worker runs it, otherwise by asking its worker, which then deletes its checkpoints.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has ended.
    """
    if jobs.cancel(db, job_id).state == JobState.CANCELLED:
        artifacts.delete_checkpoints(job_id)


def delete_job(db: Database, studies: Studies, artifacts: ArtifactStore, job_id: str) -> None:
    """Delete a job that no worker runs.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: A worker runs it; cancel it first.
    """
    jobs.close_for_deletion(db, job_id)
    with db.read() as session:
        names = {study_name(job_id, summary.arm.name) for summary in queries.arm_summaries(session, job_id)}
    studies.delete(names)
    artifacts.delete_job(job_id)
    jobs.delete_row(db, job_id)
