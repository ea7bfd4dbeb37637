"""The job that a worker owns: its lease, and all that the worker writes about it until the end.

A claim is one transaction, which locks the job that it takes. Every later write is one transaction that refuses a token
that is older than the newest: a worker that has lost its job gets LeaseLostError and changes nothing. All times of
leases are those of the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from pydantic import JsonValue
from sqlalchemy import case, delete, func, insert, select, update
from sqlalchemy.orm import Session

from service.db.models import Arm, ConfirmRun, Event, Job, RecommendationRow, Trial, TrialPoint, utc_now
from service.db.session import Database, epoch_now
from service.errors import LeaseLostError
from service.ledger import queries, totals
from service.ledger.jobs import close, pause_now, record_event, request_stop, require_job
from service.ledger.made_with import MadeWith, made_with
from service.ledger.totals import Count, Name
from service.result.job_result import JobResult
from service.spec.job import JobSpec, Scalar
from service.states import ArmState, JobState, TrialState
from service.training.run import CurvePoint, Ended
from service.version import differences, versions

IDS_OF_A_QUERY: Final = 500
"""Ids that one query asks for: databases limit the parameters of a statement."""

MAX_WORKER_DEATHS: Final = 5
"""Deaths of its worker after which a run that came no further is failed: it may be what takes them down."""

_POINT: Final = ("step", "train_loss", "val_loss", "seconds", "val_score")
"""Columns of a point of a learning curve."""

_IN_SQL: Final = {"synchronize_session": False}
"""For an UPDATE of rows that the session has not loaded."""

Attempted = TypeVar("Attempted", bound=Trial | ConfirmRun)


def claim(db: Database, worker: str, lease_s: float, modules: Iterable[str] = ()) -> RunLog | None:
    """Take the next job that is queued, or whose worker has been silent for longer than its lease.

    Args:
        db: The ledger's database.
        worker: Name of the worker.
        lease_s: Seconds that it keeps the job while it is silent.
        modules: Modules whose functions it may use. It leaves jobs that need another one to others.

    Returns:
        The job, or None when there is nothing to do.
    """
    statement = (
        update(Job)
        .values(
            state=case((Job.state == JobState.QUEUED, JobState.RUNNING), else_=Job.state),
            started_at=func.coalesce(Job.started_at, utc_now()),
            lease_worker=worker,
            lease_token=Job.lease_token + 1,
            lease_expires_s=epoch_now() + lease_s,
            claimed_s=epoch_now(),
        )
        .returning(Job.id, Job.lease_token, Job.spec, Job.dataset_info, Job.request_id)
        .execution_options(**_IN_SQL)
    )
    with db.write() as session:
        seq = session.scalar(queries.next_in_queue(modules))
        if seq is None:
            return None
        was_lost = session.scalar(select(Job.state != JobState.QUEUED).where(Job.seq == seq))
        row = session.execute(statement.where(Job.seq == seq)).one()
        record_event(session, row.id, "claimed", worker=worker, token=row.lease_token, versions=dict(versions()))
        if was_lost:
            totals.add(session, row.id, [Count(Name.LEASE_LOSSES)])
    return RunLog(db, row.id, row.lease_token, lease_s, row.spec, row.dataset_info, row.request_id)


class Requests(NamedTuple):
    """What the user of a running job has asked for."""

    cancel: bool
    pause: bool
    stop: bool


@dataclass(frozen=True, slots=True)
class RunLog:
    """The right to write about one job. Every method raises LeaseLostError if the job has another owner, or is gone.

    Attributes:
        db: The ledger's database.
        job_id: The job.
        token: Fencing token; grows with every claim of the job.
        lease_s: Seconds that a silent worker keeps the job.
        spec_json: The job's spec, as it was stored.
        info_json: Facts about its uploaded data and user code, as they were stored; None if it has neither.
        request_id: Id of the request that queued it; None if none did.
        is_resumed: Whether the same process had the job until it lost the database, and nobody has had it since.
    """

    db: Database
    job_id: str
    token: int
    lease_s: float
    spec_json: Mapping[str, object]
    info_json: Mapping[str, object] | None = None
    request_id: str | None = None
    is_resumed: bool = False

    @property
    def facts(self) -> Mapping[str, str | None]:
        """What log lines about the job say."""
        return {"job": self.job_id, "request_id": self.request_id}

    @property
    def spec(self) -> JobSpec:
        """The job's spec. Raises OtherVersionError if another version stored what this one cannot read."""
        return JobSpec.from_json(self.spec_json)

    @contextmanager
    def _fenced(self) -> Iterator[Session]:
        """Open a transaction that writes about the job."""
        with self.db.write() as session:
            mine = select(Job.id).where(Job.id == self.job_id, Job.lease_token == self.token)
            if session.execute(mine.with_for_update()).one_or_none() is None:
                raise self._lost()
            yield session

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(f"another worker owns job {self.job_id} now, or it was deleted")

    # --- the lease

    def renew(self) -> float:
        """Begin the lease again. Return the seconds that workers have had the job."""
        with self._fenced() as session:
            seconds = self._count_time(session)
            expires_s = epoch_now() + self.lease_s
            session.execute(update(Job).where(Job.id == self.job_id).values(lease_expires_s=expires_s))
            return seconds

    def _count_time(self, session: Session) -> float:
        """Add the time since the last renewal to that of the job, and return the sum. A silence is a lease at most."""
        since = epoch_now() + self.lease_s - Job.lease_expires_s  # NULL once the job has ended
        counted = case((since > self.lease_s, self.lease_s), (since > 0, since), else_=0.0)
        added = update(Job).where(Job.id == self.job_id).values(worker_seconds=Job.worker_seconds + counted)
        return session.execute(added.returning(Job.worker_seconds), execution_options=_IN_SQL).scalar_one()

    def stop(self, cause: str) -> None:
        """End the search early, as a request to stop does. Nothing happens if it has ended, or is being stopped."""
        searched = select(Arm.name).where(Arm.job_id == self.job_id, Arm.state != ArmState.COMPLETE).limit(1)
        with self._fenced() as session:
            if session.scalar(searched) is not None:
                request_stop(session, require_job(session, self.job_id), cause=cause)

    def requests(self) -> Requests:
        """Return what the job's user has asked for."""
        wanted = select(Job.lease_token, Job.cancel_requested, Job.pause_requested, Job.stop_requested)
        with self.db.read() as session:
            row = session.execute(wanted.where(Job.id == self.job_id)).one_or_none()
        if row is None or row.lease_token != self.token:
            raise self._lost()
        return Requests(row.cancel_requested, row.pause_requested, row.stop_requested)

    def must_give_way(self, turn_s: float) -> bool:
        """Return whether the job should go back to the queue, because an owner waits who was not served for so long."""
        with self.db.read() as session:
            return queries.must_give_way(session, self.job_id, turn_s)

    def set_stored_bytes(self, size_bytes: int) -> None:
        """Record the size of the job's files."""
        with self._fenced() as session:
            session.execute(update(Job).where(Job.id == self.job_id).values(stored_bytes=size_bytes))

    def release(self) -> bool:
        """Give the job back: paused if that was asked for, otherwise queued for the next worker.

        Its owner was served until now, which counts when the next job is chosen.
        If its cancellation was asked for meanwhile, it is cancelled. Returns whether that is so.
        """
        with self._fenced() as session:
            self._count_time(session)
            job = require_job(session, self.job_id)
            if job.cancel_requested:
                close(session, job, JobState.CANCELLED)
                return True
            job.lease_worker, job.lease_expires_s = None, None
            job.claimed_s = session.scalar(select(epoch_now()))
            if job.pause_requested:
                pause_now(session, job)
            else:
                job.state = JobState.QUEUED
                record_event(session, self.job_id, "released")
            for table in (Trial, ConfirmRun):  # what an error of this worker has left running: it is not to blame
                running = (table.job_id == self.job_id, table.state == TrialState.RUNNING)
                queued = update(table).where(*running).values(state=TrialState.QUEUED, attempts=table.attempts - 1)
                session.execute(queued, execution_options=_IN_SQL)
        return False

    # --- arms

    def start_arm(self, arm: str) -> Arm:
        """Mark the arm as running and return its row. An arm that came after the job was made is added as the last."""
        with self._fenced() as session:
            row = session.get(Arm, (self.job_id, arm))
            if row is None:
                last = session.scalar(select(func.max(Arm.position)).where(Arm.job_id == self.job_id)) or 0
                row = Arm(job_id=self.job_id, name=arm, position=last + 1, state=ArmState.QUEUED, seconds_used=0.0)
                session.add(row)
            if row.state == ArmState.QUEUED:
                row.state = ArmState.RUNNING
                record_event(session, self.job_id, "arm_started", arm=arm)
            return row

    def finish_arm(self, arm: str, seconds_used: float, reason: str, counted_trials: int | None = None) -> None:
        """Mark the arm as complete.

        ``counted_trials`` is how many trials it has, if a stop ended its search early: no arm counts more than that.
        """
        with self._fenced() as session:
            if counted_trials is not None:
                job = require_job(session, self.job_id)
                job.counted_trials = min(counted_trials, job.counted_trials or counted_trials)
            row = session.get_one(Arm, (self.job_id, arm))
            row.state, row.seconds_used = ArmState.COMPLETE, seconds_used
            record_event(session, self.job_id, "arm_finished", arm=arm, reason=reason, seconds=round(seconds_used, 3))

    # --- trials

    def add_trial(self, arm: str, params: Mapping[str, Scalar], *, running: bool = False) -> Trial:
        """Store a trial with the next free number of the job: queued, or running its first attempt."""
        with self._fenced() as session:
            last = session.scalar(select(func.max(Trial.number)).where(Trial.job_id == self.job_id))
            number = 0 if last is None else last + 1
            trial = Trial(job_id=self.job_id, number=number, arm=arm, state=TrialState.QUEUED, params=dict(params))
            trial.created_at = utc_now()
            if running:
                trial.state, trial.attempts, trial.started_at = TrialState.RUNNING, 1, trial.created_at
            session.add(trial)
            session.flush()
            return trial

    def start_trial(self, trial_id: int) -> int:
        """Count one more attempt, forget the points of the last one, and return the number of attempts."""
        with self._fenced() as session:
            trial = session.get_one(Trial, trial_id)
            trial.state, trial.started_at = TrialState.RUNNING, utc_now()
            trial.attempts, trial.last_step, trial.seconds = trial.attempts + 1, 0, 0.0
            session.execute(delete(TrialPoint).where(TrialPoint.trial_id == trial_id))
            return trial.attempts

    def add_points(self, points: Sequence[tuple[int, CurvePoint]]) -> None:
        """Store points of running trials' learning curves, each with its trial's id, in the order of their steps."""
        with self._fenced() as session:
            _insert_points(session, points)

    def finish_trial(
        self,
        trial_id: int,
        ended: Ended,
        arm_seconds: float,
        points: Sequence[tuple[int, CurvePoint]] = (),
        p_every: int | None = None,
    ) -> None:
        """Store how a trial ended.

        Args:
            trial_id: The trial.
            ended: How it ended.
            arm_seconds: Seconds that its arm has used by then.
            points: Points that were not stored yet.
            p_every: Steps between two updates of its P; None if it learns none.
        """
        with self._fenced() as session:
            _insert_points(session, points)
            trial = (
                update(Trial)
                .where(Trial.id == trial_id)
                .values(
                    state=ended.state,
                    cause=ended.cause,
                    value=ended.val_loss if ended.value is None else ended.value,
                    val_loss=ended.val_loss,
                    seconds=case((Trial.seconds < ended.seconds, ended.seconds), else_=Trial.seconds),
                    finished_at=utc_now(),
                )
            )
            stored = trial.returning(Trial.number, Trial.arm, Trial.value, Trial.seconds, Trial.last_step)
            number, arm, value, seconds, steps = session.execute(stored, execution_options=_IN_SQL).one()
            mine = (Arm.job_id == self.job_id, Arm.name == arm)
            session.execute(update(Arm).where(*mine).values(seconds_used=arm_seconds), execution_options=_IN_SQL)
            record_event(
                session, self.job_id, "trial_finished", trial=number, arm=arm, state=str(ended.state), value=value
            )
            counts = [Count(Name.TRIALS_ENDED, ended.state), *totals.observed(Name.TRIAL_SECONDS, arm, seconds)]
            if p_every and steps >= p_every:
                counts += totals.observed(Name.P_UPDATE_SECONDS, arm, seconds * p_every / steps)
            totals.add(session, self.job_id, counts)

    def requeue_trial(self, trial_id: int, arm_seconds: float) -> None:
        """Queue a trial again that was interrupted; the attempt does not count, the time does."""
        with self._fenced() as session:
            trial = session.get_one(Trial, trial_id)
            if trial.state == TrialState.RUNNING:
                trial.state, trial.attempts = TrialState.QUEUED, trial.attempts - 1
            session.get_one(Arm, (self.job_id, trial.arm)).seconds_used = arm_seconds

    def lose(self, run: Attempted, cause: str, last_step: int, max_attempts: int) -> Attempted:
        """Count an attempt that ended with the death of its process, and return the row of the run.

        It is queued again while it has attempts left. ``last_step`` is the last step that this attempt reached.
        """
        with self._fenced() as session:
            row = session.get_one(type(run), run.id)
            row.losses += _is_charged(row, last_step)
            counts = [Count(Name.SLOT_DEATHS, "running")]
            if row.losses < max_attempts:
                row.state = TrialState.QUEUED
                what: dict[str, JsonValue] = {"trial": row.number if isinstance(row, Trial) else row.trial_number}
                if isinstance(row, ConfirmRun):
                    what |= {"phase": row.phase, "seed": row.seed}
                kind = "trial_retried" if isinstance(row, Trial) else "run_retried"
                record_event(session, self.job_id, kind, **what, arm=row.arm, cause=cause)
                counts.append(Count(Name.RETRIES, "slot"))
            totals.add(session, self.job_id, counts)
            return row

    def running_confirm_runs(self) -> Sequence[int]:
        """Return the ids of the confirmation runs that are running, or were when their worker died."""
        running = (ConfirmRun.job_id == self.job_id, ConfirmRun.state == TrialState.RUNNING)
        with self.db.read() as session:
            return session.scalars(select(ConfirmRun.id).where(*running)).all()

    def recover_trials(self, reached: Mapping[int, int] | None = None) -> None:
        """After a worker died: queue what it was running again, or fail what took down too many workers.

        ``reached`` is the last step of confirmation runs, by id, as far as it is known. A worker that is still alive
        has only lost the database, for which no run is to blame.
        """
        with self._fenced() as session:
            trials = select(Trial).where(Trial.job_id == self.job_id, Trial.state == TrialState.RUNNING)
            runs = select(ConfirmRun).where(ConfirmRun.job_id == self.job_id, ConfirmRun.state == TrialState.RUNNING)
            counts = []
            for run in (*session.scalars(trials), *session.scalars(runs)):
                last_step = run.last_step if isinstance(run, Trial) else (reached or {}).get(run.id, 0)
                run.worker_deaths += _is_charged(run, last_step) and not self.is_resumed
                if run.worker_deaths < MAX_WORKER_DEATHS:
                    run.state = TrialState.QUEUED
                    counts.append(Count(Name.RETRIES, "worker"))
                else:
                    is_trial = isinstance(run, Trial)
                    counts.append(Count(Name.TRIALS_ENDED if is_trial else Name.RUNS_ENDED, TrialState.FAILED))
                    run.state = TrialState.FAILED
                    run.cause = f"its worker died {run.worker_deaths} times while it ran, and it came no further"
                    if isinstance(run, Trial):
                        run.finished_at = utc_now()
            totals.add(session, self.job_id, counts)

    def delay_start(self, cause: str, pause_s: float) -> None:
        """Store that a slot could not start, and that another one does after a pause."""
        with self._fenced() as session:
            record_event(session, self.job_id, "start_delayed", cause=cause, pause_s=pause_s)
            totals.add(session, self.job_id, [Count(Name.SLOT_DEATHS, "starting")])

    def trials(self, arm: str) -> Sequence[Trial]:
        """Return the trials of an arm by number."""
        with self.db.read() as session:
            wanted = select(Trial).where(Trial.job_id == self.job_id, Trial.arm == arm).order_by(Trial.number)
            return session.scalars(wanted).all()

    def curves(self, trial_ids: Collection[int]) -> dict[int, list[CurvePoint]]:
        """Return the learning curves of trials, by id."""
        found: dict[int, list[CurvePoint]] = {trial_id: [] for trial_id in trial_ids}
        columns = (getattr(TrialPoint, name) for name in ("trial_id", *_POINT))
        wanted = select(*columns).order_by(TrialPoint.step)
        with self.db.read() as session:
            for start in range(0, len(found), IDS_OF_A_QUERY):
                ids = [*found][start : start + IDS_OF_A_QUERY]
                for row in session.execute(wanted.where(TrialPoint.trial_id.in_(ids))):
                    point = CurvePoint(row.step, row.train_loss, row.val_loss, row.seconds, None, row.val_score)
                    found[row.trial_id].append(point)
        return found

    # --- confirmation runs

    def plan_confirm_runs(self, phase: str, finalists: Sequence[Trial], seeds: Sequence[int]) -> Sequence[ConfirmRun]:
        """Store a queued run of every finalist on every seed that has none yet; return all runs of the phase.

        Runs that a worker with other versions has made are deleted first, so that a verdict compares runs of one
        version. If the job has a verdict already, its next one on new runs of ``confirm`` is a further look,
        however often they are planned.
        """
        with self._fenced() as session:
            runs = queries.confirm_runs(session, self.job_id, phase)
            made = made_with(session, self.job_id) if runs else MadeWith()
            if old := made.to_repeat(runs):
                for run in old:
                    session.delete(run)
                session.flush()
                others = {differences(made.of(run), made.worker) for run in old}
                cause = f"made with {' or '.join(sorted(others))}"
                record_event(session, self.job_id, "runs_dropped", phase=phase, runs=len(old), cause=cause)
            planned = {(run.trial_number, run.seed) for run in queries.confirm_runs(session, self.job_id, phase)}
            new = [(seed, t) for seed in seeds for t in finalists if (t.number, seed) not in planned]
            if new:
                if phase == "confirm" and queries.is_judged_anew(session, self.job_id):
                    require_job(session, self.job_id).looks += 1
                session.add_all(
                    ConfirmRun(
                        job_id=self.job_id,
                        phase=phase,
                        arm=trial.arm,
                        trial_number=trial.number,
                        seed=seed,
                        state=TrialState.QUEUED,
                    )
                    for seed, trial in new
                )
                session.flush()
                record_event(session, self.job_id, "runs_planned", phase=phase, runs=len(new))
            return queries.confirm_runs(session, self.job_id, phase)

    def confirm_runs(self, phase: str) -> Sequence[ConfirmRun]:
        """Return the runs of a phase, in the order in which they were planned."""
        with self.db.read() as session:
            return queries.confirm_runs(session, self.job_id, phase)

    def made_with(self) -> MadeWith:
        """Return which versions made the trials and runs that have ended."""
        with self.db.read() as session:
            return made_with(session, self.job_id)

    def start_confirm_run(self, run_id: int) -> int:
        """Count one more attempt of a confirmation run and return the number of attempts."""
        with self._fenced() as session:
            run = session.get_one(ConfirmRun, run_id)
            run.state, run.attempts = TrialState.RUNNING, run.attempts + 1
            return run.attempts

    def requeue_confirm_run(self, run_id: int) -> None:
        """Queue a confirmation run again that was interrupted; the attempt does not count."""
        with self._fenced() as session:
            run = session.get_one(ConfirmRun, run_id)
            if run.state == TrialState.RUNNING:
                run.state, run.attempts = TrialState.QUEUED, run.attempts - 1

    def finish_confirm_run(self, run_id: int, ended: Ended, curve: Sequence[CurvePoint] = ()) -> None:
        """Store how a confirmation run ended, with its learning curve."""
        with self._fenced() as session:
            run = session.get_one(ConfirmRun, run_id)
            run.state, run.cause, run.seconds = ended.state, ended.cause, ended.seconds
            run.val_loss, run.test_loss, run.test_score = ended.val_loss, ended.test_loss, ended.test_score
            run.curve = queries.stored_curve(curve)
            what: dict[str, JsonValue] = {"phase": run.phase, "arm": run.arm, "trial": run.trial_number}
            record_event(session, self.job_id, "run_finished", **what, seed=run.seed, state=str(ended.state))
            totals.add(session, self.job_id, [Count(Name.RUNS_ENDED, ended.state)])

    # --- the job

    def looks(self) -> int:
        """Return how many times the confirmation is judged, this time included; again on the same runs counts once."""
        with self.db.read() as session:
            return require_job(session, self.job_id).looks

    def counted_trials(self) -> int | None:
        """Return how many trials of each arm count because the job was stopped; None if all of them do."""
        with self.db.read() as session:
            return require_job(session, self.job_id).counted_trials

    def stop_cause(self) -> str | None:
        """Return why the service itself has stopped the job; None if it did not, or its user did first."""
        stops = select(Event.data).where(Event.job_id == self.job_id, Event.kind == "stop_requested")
        with self.db.read() as session:
            last = session.scalar(stops.order_by(Event.id.desc()).limit(1)) or {}
        return str(last["cause"]) if "cause" in last else None

    def set_data_hash(self, sha256: str) -> str | None:
        """Store the hash of the prepared data if there is none yet; return the one that was there before."""
        with self._fenced() as session:
            job = require_job(session, self.job_id)
            before = job.data_sha256
            job.data_sha256 = before or sha256
            return before

    def verify(self) -> None:
        """Move the job from its search to the verification of the finalists."""
        with self._fenced() as session:
            job = require_job(session, self.job_id)
            if job.state != JobState.VERIFYING:
                job.state = JobState.VERIFYING
                record_event(session, self.job_id, JobState.VERIFYING)

    def succeed(self, result: JobResult) -> None:
        """Store the result and end the job, in one transaction."""
        with self._fenced() as session:
            row = RecommendationRow(job_id=self.job_id, verdict=result.verdict, arm=result.arm, created_at=utc_now())
            row.data = dict(result.to_json())
            session.merge(row)  # replaces the one from before an extension
            self._count_time(session)
            close(session, require_job(session, self.job_id), JobState.SUCCEEDED)

    def end(self, state: JobState, cause: str | None) -> None:
        """End the job without a recommendation, and with it the trials that have not ended."""
        with self._fenced() as session:
            self._count_time(session)
            close(session, require_job(session, self.job_id), state, cause)


def _is_charged(run: Trial | ConfirmRun, last_step: int) -> bool:
    """Tell whether a lost attempt counts: not if it came further than all before it, which is remembered."""
    came_further = last_step > run.furthest_step
    run.furthest_step = max(run.furthest_step, last_step)
    return not came_further


def _insert_points(session: Session, points: Sequence[tuple[int, CurvePoint]]) -> None:
    if not points:
        return
    rows = [{"trial_id": key, **{name: getattr(point, name) for name in _POINT}} for key, point in points]
    last = [{"id": key, "last_step": p.step, "seconds": p.seconds} for key, p in dict(points).items()]
    session.execute(insert(TrialPoint), rows)
    session.execute(update(Trial), last)
