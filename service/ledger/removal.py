"""Removes a job with everything that belongs to it, and what comes too late."""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.artifacts import ArtifactStore
from service.db.session import Database
from service.db.studies import study_name
from service.ledger import jobs, queries

log = logging.getLogger(__name__)


def remove_job(db: Database, artifacts: ArtifactStore, delete_studies: Callable[[set[str]], None], job_id: str) -> None:
    """Delete a job with its trials, studies and files. If this is cut short, it can be repeated.

    Args:
        db: The ledger.
        artifacts: Where its files are.
        delete_studies: Deletes Optuna's studies with these names, of which some may not exist.
        job_id: The job.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: A worker runs it.
    """
    jobs.close_for_deletion(db, job_id)
    with db.read() as session:
        names = {study_name(job_id, summary.arm.name) for summary in queries.arm_summaries(session, job_id)}
    delete_studies(names)
    artifacts.delete_job(job_id)
    jobs.delete_row(db, job_id)  # comes last, so that a deletion that was cut short can be repeated


def remove_late_files(db: Database, artifacts: ArtifactStore, job_id: str) -> None:
    """Delete what a worker that stood still has written to a job since that was deleted, if it was.

    If the store cannot be reached, this only logs a warning.
    """
    with db.read() as session:
        job = jobs.find_job(session, job_id)
    if job is None or job.delete_requested:
        try:
            artifacts.delete_job(job_id)
        except Exception:  # each kind of store raises its own errors
            log.warning("files of a deleted job are left behind", extra={"job": job_id}, exc_info=True)
