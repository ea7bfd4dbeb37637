"""The worker, which claims queued jobs from the ledger and runs them, one at a time.

The main thread runs the job (running/job_run.py); training happens in the processes of an engine. A second thread, the
:class:`LeaseKeeper`, renews the lease and looks for what the job's user asks for.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from typing import Final

import optuna

from service import logs
from service.db.session import AWAY, Database, is_away
from service.disk import is_full, require_room
from service.engines.base import Engine
from service.errors import (
    DatabaseReplacedError,
    EngineLostError,
    JobFailedError,
    LeaseLostError,
    OtherVersionError,
    OutdatedWorkerError,
    StorageFullError,
)
from service.ledger.removal import remove_late_files
from service.ledger.runs import RunLog, claim
from service.running.context import Tools, note_size
from service.running.job_run import run_job
from service.running.notify import Notifier
from service.running.retention import Retention
from service.settings import Settings
from service.states import JobState
from service.version import versions

log = logging.getLogger(__name__)

HEARTBEATS: Final = 5
"""Renewals within one lease: four may fail in a row."""

LEDGER_AWAY: Final = (*AWAY, DatabaseReplacedError, optuna.exceptions.StorageInternalError)
"""What is raised while the database cannot be reached; :func:`_is_away` tells other causes apart."""

OVERTIME: Final = 2
"""At its limit of seconds the search of a job ends; at so many times the limit the whole job does."""

AWAY_PAUSE_S: Final = 1.0
"""Pause before the next attempt to reach the ledger."""

FULL_PAUSE_S: Final = 5.0
"""Pause before the next look whether a full disk has room."""


def _is_away(error: Exception) -> bool:
    """Return whether an error says that the database cannot be reached. Any other would come again each time."""
    if isinstance(error, optuna.exceptions.StorageInternalError):  # Optuna wraps every error of the database in it
        return error.__cause__ is None or is_away(error.__cause__)
    return isinstance(error, DatabaseReplacedError) or is_away(error)


class HaltedError(Exception):
    """Work on the job must stop: it was cancelled or paused, gives way, took too long, is lost; or the worker ends."""


class LeaseKeeper:
    """Renews a lease in its own thread, and knows whether work on the job may continue.

    ``stopping`` is set when the worker must stop.
    """

    def __init__(self, record: RunLog, settings: Settings, stopping: threading.Event) -> None:
        self._record, self._settings, self.stopping = record, settings, stopping
        self.cancelled, self.paused, self._draining, self.lost = False, False, False, False
        self.overtime: str | None = None
        self._gives_way, self._runs_ended = False, 0
        self._done = threading.Event()
        run = copy_context().run  # its log lines are about the same job
        self._thread = threading.Thread(target=run, args=(self._renew_until_done,), name="lease-keeper", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._renew()
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def halted(self) -> bool:
        """Return whether work on the job must stop now. Called from the worker's main thread."""
        return bool(self.cancelled or self.paused or self.lost or self.overtime) or self.stopping.is_set()

    def draining(self) -> bool:
        """Return whether the job is stopped: it gets no more trials than a verdict needs."""
        return self._draining

    def run_ended(self) -> None:
        """Count a run. Called from the worker's main thread."""
        self._runs_ended += 1

    def turn_is_over(self) -> bool:
        """Return whether no further run should begin. One ends in every turn, so that the job comes further."""
        return self._gives_way and self._runs_ended > 0

    def check(self) -> None:
        """Raise HaltedError if work on the job must stop now. Called from the worker's main thread, between runs."""
        if self.halted() or self.turn_is_over():
            raise HaltedError

    def _renew_until_done(self) -> None:
        """The thread: look for requests, and renew the lease several times before it runs out."""
        renewed = time.monotonic()
        while not self._done.wait(self._settings.poll_s):
            try:
                self._look()
                if time.monotonic() - renewed >= self._settings.lease_s / HEARTBEATS:
                    self._renew()
                    renewed = time.monotonic()
            except LeaseLostError:
                self.lost = True
                return
            except Exception:  # the database may be away for a moment, which the lease outlives
                log.warning("cannot reach the ledger", exc_info=True)
                if time.monotonic() - renewed > self._settings.lease_s:
                    self.lost = True
                    return

    def _renew(self) -> None:
        """Renew the lease. Stop the job if workers have had it for too long, or end it if that did not help."""
        seconds, limit = self._record.renew(), self._settings.max_job_seconds
        reached = f"the limit of the setting WARPTUNE_MAX_JOB_SECONDS, {limit:g} seconds"
        if seconds >= OVERTIME * limit:
            self.overtime = (
                f"workers have had the job for {seconds:.0f} seconds, {OVERTIME} times {reached}. What has ended is "
                "kept: retry the job when that is higher"
            )
        elif seconds >= limit and not self._draining:
            self._record.stop(f"workers have had it for {seconds:.0f} seconds, and reached {reached}")

    def _look(self) -> None:
        """Look for requests. One that was seen is never forgotten, so that all of this worker's work agrees on it."""
        asked = self._record.requests()
        self.cancelled, self.paused = self.cancelled or asked.cancel, self.paused or asked.pause
        self._draining = self._draining or asked.stop
        self._gives_way = self._gives_way or self._record.must_give_way(self._settings.turn_s)


class Worker:
    """Claims jobs from the ledger and runs them, one at a time.

    The tables of ``db`` exist. ``engines`` has the names that ``engine.name`` of a spec may have.
    """

    def __init__(
        self, settings: Settings, db: Database, storage: optuna.storages.BaseStorage, engines: Mapping[str, Engine]
    ) -> None:
        versions()  # finds them before an update on the disk can change them
        self._settings, self._db = settings, db
        self._tools = Tools.of(settings, engines, storage)
        self._stopping = threading.Event()
        self._left: tuple[str, int] | None = None  # a job, and the token under which this worker lost the database
        self.name = f"{socket.gethostname()}:{os.getpid()}"

    def stop(self) -> None:
        """Ask the worker to give its job back and end. Does not wait; may be called from any thread."""
        self._stopping.set()

    def run_forever(self) -> None:
        """Run jobs until :meth:`stop` is called. While the ledger cannot be reached or a disk is full, keep trying.

        Raises:
            OutdatedWorkerError: The service was updated while this worker ran.
        """
        tools = self._tools
        with (
            Notifier(self._settings, self._db),
            Retention(self._settings, self._db, tools.artifacts, tools.delete_studies),
        ):
            self._run_until_stopped()

    def _run_until_stopped(self) -> None:
        log.info("worker ready", extra={"worker": self.name})
        while not self._stopping.is_set():
            try:
                require_room(self._settings)
                pause_s = 0.0 if self.run_next() else self._settings.poll_s
                if pause_s:
                    self._end_idle()
            except StorageFullError as error:
                log.warning("no room for a job", extra={"cause": str(error)})
                pause_s = FULL_PAUSE_S
            except EngineLostError as error:  # as if this worker had died: the job goes on when its lease has run out
                log.warning("lost an engine", extra={"cause": str(error)})
                pause_s = self._settings.poll_s
            except OSError:  # of require_room: a job's own errors do not come here
                log.warning("cannot see how much room there is", exc_info=True)
                pause_s = AWAY_PAUSE_S
            except LEDGER_AWAY:
                log.warning("cannot reach the ledger", exc_info=True)
                pause_s = AWAY_PAUSE_S
            self._stopping.wait(pause_s)
        log.info("worker stopped", extra={"worker": self.name})

    def _end_idle(self) -> None:
        for engine in self._tools.engines.values():
            engine.end_idle()

    def run_next(self) -> bool:
        """Claim one job and run it to its end; return False if there is none to claim.

        Raises:
            sqlalchemy.exc.DBAPIError: The ledger cannot be reached. When the lease of the job has run out, this worker
                or another continues the job.
            StorageFullError: A disk is full. The job goes back to the queue.
            EngineLostError: The engine of the job has died. When the lease has run out, it is continued.
            OutdatedWorkerError: The service was updated while this worker ran. The job goes back to the queue.
        """
        record = claim(self._db, self.name, self._settings.lease_s, self._settings.modules)
        if record is None:
            return False
        record = replace(record, is_resumed=self._left == (record.job_id, record.token - 1))
        self._left = None
        with logs.about(**record.facts):
            log.info("job claimed", extra={"token": record.token})
            try:
                with LeaseKeeper(record, self._settings, self._stopping) as keeper:
                    ended = self._run_job(record, keeper)
                    if ended:
                        self._tools.artifacts.delete_checkpoints(record.job_id)
                    note_size(record, self._tools.artifacts)
            except LeaseLostError:
                self._left = record.job_id, record.token  # perhaps there is none: an outage lets it run out, too
                log.warning("job lost to another worker")
                remove_late_files(self._db, self._tools.artifacts, record.job_id)
            except OutdatedWorkerError:
                with suppress(LeaseLostError):
                    record.release()
                raise
            except LEDGER_AWAY:
                self._left = record.job_id, record.token
                raise
        return True

    def _run_job(self, record: RunLog, keeper: LeaseKeeper) -> bool:
        """Run the job and record how it ended; return False if it goes back to the queue."""
        try:
            run_job(record, keeper, self._tools)
            log.info("job succeeded")
        except HaltedError:
            if keeper.lost:
                raise LeaseLostError(record.job_id) from None
            if keeper.cancelled:
                record.end(JobState.CANCELLED, None)
                log.info("job cancelled")
            elif keeper.overtime:
                record.end(JobState.FAILED, keeper.overtime)
                log.warning("job failed", extra={"cause": keeper.overtime})
            else:
                cancelled = record.release()
                log.info("job released")
                return cancelled
        except (JobFailedError, OtherVersionError) as error:
            record.end(JobState.FAILED, str(error))
            log.warning("job failed", extra={"cause": str(error)})
        except (LeaseLostError, EngineLostError, OutdatedWorkerError):
            raise
        except Exception as error:
            if is_full(error) or is_full(error.__cause__):  # Optuna wraps the errors of the database
                with suppress(LeaseLostError, *LEDGER_AWAY):  # if the ledger is full too, the lease runs out
                    record.release()
                raise StorageFullError(f"a disk is full: {error}") from error
            if _is_away(error):  # the job is not to blame
                raise
            log.exception("job failed on an error of the service")
            record.end(JobState.FAILED, f"internal error: {type(error).__name__}: {error}")
        return True
