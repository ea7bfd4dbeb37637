# The end of a job by its user's wish. Deletion takes its studies, its files, its rows, in this order, so that one that
# was cut short can be sent again and finishes the rest. The end that a worker brings about is in worker.py.
"""Cancellation and deletion of a job with what belongs to it."""

from __future__ import annotations

from service.artifacts import ArtifactStore
from service.db.session import Database
from service.db.studies import Studies, study_name
from service.ledger import jobs, queries
from service.states import JobState


def cancel_job(db: Database, artifacts: ArtifactStore, job_id: str) -> None:
    """Cancel a job: at once when no worker is on it, otherwise by asking its worker, who then removes its checkpoints.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: The job has ended.
    """
    if jobs.cancel(db, job_id).state == JobState.CANCELLED:
        artifacts.delete_checkpoints(job_id)


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
