# A worker takes one job at a time and carries it from claimed to ended: data, arms, verification, recommendation. It
# trains nothing itself. A second thread keeps the lease and listens for a cancellation; everything else is one thread.
"""The worker process."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import optuna
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.artifacts import ArtifactStore
from service.db.models import Trial
from service.db.session import Database
from service.engines.base import Engine, Work
from service.errors import JobFailedError, LeaseLostError
from service.ledger import lease as leases
from service.ledger.lease import Lease
from service.ledger.runs import RunLog
from service.plan import ArmPlan, JobPlan, make_plan
from service.recommend.confirm import ConfirmRuns, Phase
from service.recommend.recommendation import Finalist, best_trials, recommend, select
from service.settings import Settings
from service.states import ArmState, JobState
from service.study import ArmSearch

log = logging.getLogger(__name__)

HEARTBEATS: Final = 5
"""Renewals within one lease: a worker may miss four."""

DATA_FILE: Final = "data.npz"
"""Name of the artifact with a job's prepared split."""


LEDGER_AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError, optuna.exceptions.StorageInternalError)
"""What is raised while the database cannot be reached; nothing about the job is wrong then."""

AWAY_PAUSE_S: Final = 1.0
"""Pause before the next try to reach the ledger."""


class HaltedError(Exception):
    """The job must be left as it is: cancelled, lost to another worker, or this worker is stopping."""


class Keeper:
    """Keeps a lease alive and knows whether the job may go on.

    Args:
        db: The ledger's database.
        lease: The lease to keep.
        settings: Lengths of the lease and of the poll.
        stopping: Set when the worker itself is to stop.
    """

    def __init__(self, db: Database, lease: Lease, settings: Settings, stopping: threading.Event) -> None:
        self._db, self._lease, self._settings, self.stopping = db, lease, settings, stopping
        self.cancelled, self.lost = False, False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def halted(self) -> bool:
        """Tell whether work on the job must stop now."""
        return self.cancelled or self.lost or self.stopping.is_set()

    def check(self) -> None:
        """Raise HaltedError if work on the job must stop now."""
        if self.halted():
            raise HaltedError

    def _keep(self) -> None:
        renewed = time.monotonic()
        while not self._done.wait(self._settings.poll_s):
            try:
                self.cancelled = self.cancelled or leases.cancel_requested(self._db, self._lease)
                if time.monotonic() - renewed >= self._settings.lease_s / HEARTBEATS:
                    leases.renew(self._db, self._lease, self._settings.lease_s)
                    renewed = time.monotonic()
            except LeaseLostError:
                self.lost = True
                return
            except Exception:  # the database may be away for a moment; the lease outlives four failed renewals
                log.warning("cannot reach the ledger", extra={"job": self._lease.job_id}, exc_info=True)
                if time.monotonic() - renewed > self._settings.lease_s:
                    self.lost = True
                    return


class Worker:
    """Takes jobs from the ledger and runs them, one at a time.

    Args:
        settings: Settings of the process.
        db: The ledger's database; its schema exists.
        storage: Optuna's tables.
        engine: Runs the trials.
    """

    def __init__(self, settings: Settings, db: Database, storage: optuna.storages.RDBStorage, engine: Engine) -> None:
        self._settings, self._db, self._storage, self._engine = settings, db, storage, engine
        self._artifacts = ArtifactStore(settings.artifacts_url)
        self._stopping = threading.Event()
        self.name = f"{socket.gethostname()}:{os.getpid()}"

    def stop(self) -> None:
        """Ask the worker to give its job back and return; may be called from a signal handler."""
        self._stopping.set()

    def run_forever(self) -> None:
        """Run jobs until :meth:`stop` is called; while the ledger cannot be reached, try again and again."""
        log.info("worker ready", extra={"worker": self.name})
        while not self._stopping.is_set():
            try:
                pause_s = 0.0 if self.run_next() else self._settings.poll_s
            except LEDGER_AWAY:
                log.warning("cannot reach the ledger", exc_info=True)
                pause_s = AWAY_PAUSE_S
            self._stopping.wait(pause_s)
        log.info("worker stopped", extra={"worker": self.name})

    def run_next(self) -> bool:
        """Claim one job and run it to its end; return False when there is none to claim.

        Raises:
            sqlalchemy.exc.DBAPIError: The ledger cannot be reached. The job is left as it is; when its lease has run
                out, this worker or another goes on with it.
        """
        lease = leases.claim(self._db, self.name, self._settings.lease_s)
        if lease is None:
            return False
        log.info("job claimed", extra={"job": lease.job_id, "token": lease.token})
        record = RunLog(self._db, lease)
        try:
            with Keeper(self._db, lease, self._settings, self._stopping) as keeper:
                self._settle(record, keeper)
        except LeaseLostError:
            log.warning("job lost to another worker", extra={"job": lease.job_id})
        return True

    def _settle(self, record: RunLog, keeper: Keeper) -> None:
        """Run the job and write how it ended."""
        try:
            _JobRun(record, keeper, self._engine, self._storage, self._artifacts).execute()
            log.info("job succeeded", extra={"job": record.job_id})
        except HaltedError:
            if keeper.lost:
                raise LeaseLostError(record.job_id) from None
            if keeper.cancelled:
                record.end(JobState.CANCELLED, None)
                log.info("job cancelled", extra={"job": record.job_id})
            else:
                leases.release(self._db, record.lease)
                log.info("job released", extra={"job": record.job_id})
        except JobFailedError as error:
            record.end(JobState.FAILED, str(error))
            log.warning("job failed", extra={"job": record.job_id, "cause": str(error)})
        except (LeaseLostError, *LEDGER_AWAY):
            raise
        except Exception as error:
            log.exception("job failed on an error of the service", extra={"job": record.job_id})
            record.end(JobState.FAILED, f"internal error: {type(error).__name__}: {error}")


class _JobRun:
    """One job on its way from claimed to ended; goes on where an earlier worker stopped."""

    def __init__(
        self,
        record: RunLog,
        keeper: Keeper,
        engine: Engine,
        storage: optuna.storages.RDBStorage,
        artifacts: ArtifactStore,
    ) -> None:
        self._record, self._keeper, self._engine = record, keeper, engine
        self._storage, self._artifacts = storage, artifacts
        self._spec = record.lease.spec

    def execute(self) -> None:
        plan = make_plan(self._spec)
        self._record.recover_trials(self._spec.resources.max_attempts)
        data = self._prepare_data()
        for arm in plan.arms:
            self._search(plan, arm, data)
            self._best(arm.name, 1)  # an arm that completed nothing ends the job at once
        self._record.verify()
        finalists = self._select(plan, data)
        self._confirm(plan, "confirm", [finalist.trial for finalist in finalists], data)
        result = recommend(plan, finalists, self._record.confirm_runs("confirm"))
        self._record.succeed(result.verdict, result.arm, result.to_json())

    def _prepare_data(self) -> tuple[str, str]:
        """Store the split of the job and return its URL and hash."""
        from service.training.datasets import prepare  # loads scikit-learn, which an idle worker does not need

        self._keeper.check()
        content = prepare(self._spec.dataset.name, self._spec.seed).to_npz()
        digest = hashlib.sha256(content).hexdigest()
        before = self._record.set_data_hash(digest)
        if before not in (None, digest):
            raise JobFailedError(
                f"the data that this worker prepares has SHA-256 {digest}, the trials so far were trained on {before}: "
                "the workers have different versions of numpy or scikit-learn"
            )
        return self._artifacts.put(self._record.job_id, DATA_FILE, content), digest

    def _search(self, plan: JobPlan, arm: ArmPlan, data: tuple[str, str]) -> None:
        if self._record.start_arm(arm.name).state == ArmState.COMPLETE:
            return
        search = ArmSearch(self._record, plan, arm, self._storage, data, self._keeper.halted)
        try:
            self._run(search)
        finally:
            search.close()
        self._record.finish_arm(arm.name, search.seconds_used, search.reached)

    def _select(self, plan: JobPlan, data: tuple[str, str]) -> list[Finalist]:
        """Return one finalist for each arm."""
        top_k = self._spec.confirm.top_k
        contenders = [self._best(arm.name, top_k) for arm in plan.arms]
        if top_k == 1:
            return [Finalist(trials[0], trials[0].value or 0.0) for trials in contenders]
        self._confirm(plan, "select", [trial for trials in contenders for trial in trials], data)
        runs = self._record.confirm_runs("select")
        return [select(trials, runs) for trials in contenders]

    def _best(self, arm: str, count: int) -> list[Trial]:
        trials = self._record.trials(arm)
        best = best_trials(trials, count)
        if not best:
            counts = ", ".join(f"{n} {state}" for state, n in Counter(str(t.state) for t in trials).items()) or "none"
            causes = [trial.cause for trial in trials if trial.cause]
            last = f"; the last cause: {causes[-1]}" if causes else ""
            raise JobFailedError(f"arm {arm} completed no trial (trials: {counts}){last}")
        return best

    def _confirm(self, plan: JobPlan, phase: Phase, finalists: Sequence[Trial], data: tuple[str, str]) -> None:
        self._run(ConfirmRuns(self._record, plan, phase, finalists, data, self._keeper.halted))

    def _run(self, work: Work) -> None:
        self._engine.run(work, self._spec.resources, self._spec.budget.max_seconds)
        self._keeper.check()
