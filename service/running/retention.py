"""Deletes what is older than the operator keeps it, in a thread of the worker. Several workers may do so at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sqlalchemy import select

from service.artifacts import ArtifactStore
from service.db.models import Job, utc_now
from service.db.session import AWAY, Database
from service.errors import ConflictError, DatabaseReplacedError, NotFoundError
from service.ledger import audit, datasets
from service.ledger.removal import remove_job
from service.settings import Settings
from service.states import ENDED_JOB

log = logging.getLogger(__name__)

EVERY_S: Final = 600.0
"""Seconds from the end of a sweep to the next."""

STOP_S: Final = 5.0
"""Seconds that a stopping worker gives a sweep. What it does not finish is repeated."""


class Retention:
    """Sweeps while it is open, if the operator has set how long something is kept.

    ``delete_studies`` deletes Optuna's studies with these names.
    """

    def __init__(
        self, settings: Settings, db: Database, artifacts: ArtifactStore, delete_studies: Callable[[set[str]], None]
    ) -> None:
        self._settings, self._db, self._artifacts, self._delete_studies = settings, db, artifacts, delete_studies
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sweep_until_stopped, name="retention", daemon=True)

    def __enter__(self) -> Retention:
        kept = self._settings
        if any(days is not None for days in (kept.keep_jobs_days, kept.keep_datasets_days, kept.keep_audit_days)):
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _sweep_until_stopped(self) -> None:
        while not self._stopping.is_set():
            self.sweep()
            self._stopping.wait(EVERY_S)

    def sweep(self) -> None:
        """Delete what is too old, one job or dataset after the other, until this worker stops.

        What cannot be deleted is logged, and keeps nothing else from being deleted.
        """
        for delete_old in (self._delete_jobs, self._delete_datasets, self._delete_lines):  # jobs use datasets
            try:
                delete_old()
            except Exception:
                log.exception("cannot delete what is older than it is kept")

    def _delete_jobs(self) -> None:
        if (days := self._settings.keep_jobs_days) is not None:
            old = select(Job.id).where(Job.state.in_(ENDED_JOB), Job.finished_at < utc_now() - timedelta(days=days))
            with self._db.read() as session:
                job_ids = session.scalars(old.order_by(Job.seq)).all()
            for job_id in job_ids:
                self._delete("job", job_id, self._remove_job)

    def _delete_datasets(self) -> None:
        if (days := self._settings.keep_datasets_days) is not None:
            with self._db.read() as session:
                dataset_ids = datasets.unused(session, utc_now() - timedelta(days=days))
            for dataset_id in dataset_ids:
                self._delete("dataset", dataset_id, self._remove_dataset)

    def _delete_lines(self) -> None:
        if (days := self._settings.keep_audit_days) is not None:
            moment = utc_now() - timedelta(days=days)
            while not self._stopping.is_set() and audit.delete_before(self._db, moment):
                pass

    def _delete(self, kind: str, which: str, remove: Callable[[str], None]) -> None:
        if self._stopping.is_set():
            return
        try:
            remove(which)
            log.info("deleted, as it is older than it is kept", extra={kind: which})
            audit.record_command(self._db, f"delete_{kind}", which, who="retention")
        except (NotFoundError, ConflictError):  # somebody else deleted it, or it is used again
            return
        except (*AWAY, DatabaseReplacedError):  # nothing else could be deleted either
            raise
        except Exception:
            log.exception("cannot be deleted, although it is older than it is kept", extra={kind: which})

    def _remove_job(self, job_id: str) -> None:
        remove_job(self._db, self._artifacts, self._delete_studies, job_id)

    def _remove_dataset(self, dataset_id: str) -> None:
        datasets.delete(self._db, dataset_id, self._artifacts.taken_dataset)
