"""SQLAlchemy models of the ledger's tables, which only service/ledger/ writes.

Optuna keeps its own tables (studies, trials, ...) in the same database; ours have other names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import JsonValue
from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, validates

from search_spaces import Scalar
from service.settings import LOCAL_PROJECT
from service.states import ArmState, JobState, TrialState


def utc_now() -> datetime:
    """Return the present time, aware and in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored and returned as UTC. SQLite forgets the zone, and PostgreSQL answers in its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn a time of another zone into UTC."""
        del dialect
        return None if value is None else _in_utc(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Attach UTC where the database returned a naive value."""
        del dialect
        return None if value is None else _in_utc(value)


def _in_utc(value: datetime) -> datetime:
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of the tables."""

    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        dict[str, JsonValue]: JSON,
        dict[str, Scalar]: JSON,
        StrEnum: String(16),
    }


class DatabaseIdentity(Base):
    """One row with a random id, made with the tables: another id is another database."""

    __tablename__ = "database_identity"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)


class Owned:
    """What belongs to a project. A session of :meth:`service.db.session.Database.of` sees no other project's rows."""

    owner: Mapped[str] = mapped_column(String(64), default=LOCAL_PROJECT, server_default=LOCAL_PROJECT)


class ApiKey(Base):
    """An API key. It names a project and what may be done there; of its secret, only a hash is stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    project: Mapped[str] = mapped_column(String(64))
    scope: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class BrowserSession(Base):
    """A browser that signed in with an API key. ``sha256`` is that of the random text in its cookie."""

    __tablename__ = "browser_sessions"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    expires_at: Mapped[datetime]


def _job_key(*, primary_key: bool = False) -> Mapped[str]:
    return mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=primary_key)


class Job(Owned, Base):
    """One tuning job, with its lease.

    ``dataset_info`` has the facts about an uploaded dataset and user code; it is NULL if the job has neither. ``looks``
    counts how often its confirmation is judged: once more with each extension that adds runs to it. ``lease_token``
    grows with every claim:
    a write with an older one is refused. ``stored_bytes`` is the size of its files, as its worker has last
    measured it. ``lease_expires_s`` and ``claimed_s``, when it was last claimed or given back, are in
    seconds since 1970 on the database's clock. ``counted_trials`` is how many trials of each arm count once a stop has
    ended the search of an arm early; NULL is all of them. ``request_id`` is the id of the
    request that queued it last, ``queued_at`` the time at which it was queued last, also by its worker.
    ``worker_seconds`` is the time that workers have had it, up to the last renewal of its lease. Once
    ``delete_requested`` is set, it can only be deleted. Only a worker that allows ``needs_module`` takes it; NULL lets
    any worker take it.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state", "state", "seq"),
        Index("ix_jobs_waiting", "state", "owner", "priority"),
        Index("ix_jobs_of_owner", "owner", "seq"),
        Index("ix_jobs_owner", "owner", "claimed_s"),
    )

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    dataset: Mapped[str] = mapped_column(String(100))
    state: Mapped[JobState] = mapped_column(String(16), default=JobState.QUEUED)
    spec: Mapped[dict[str, JsonValue]]
    cause: Mapped[str | None] = mapped_column(Text)
    data_sha256: Mapped[str | None] = mapped_column(String(64))
    dataset_info: Mapped[dict[str, JsonValue] | None] = mapped_column(JSON(none_as_null=True))
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    request_id: Mapped[str | None] = mapped_column(String(64))
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    stop_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    delete_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    counted_trials: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    queued_at: Mapped[datetime | None] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    looks: Mapped[int] = mapped_column(default=1, server_default="1")
    lease_worker: Mapped[str | None] = mapped_column(String(200))
    lease_token: Mapped[int] = mapped_column(default=0)
    lease_expires_s: Mapped[float | None]
    claimed_s: Mapped[float | None]
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    worker_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    needs_module: Mapped[str | None] = mapped_column(Text)

    @validates("state")
    def _note_the_queue(self, _: str, state: JobState) -> JobState:
        if state == JobState.QUEUED:
            self.queued_at = utc_now()
        return state

    @property
    def tags(self) -> list[str]:
        """The tags of its spec."""
        tags = self.spec.get("tags")
        return list(map(str, tags)) if isinstance(tags, list) else []


class JobTag(Base):
    """A tag of a job, to find it by; its spec has them too."""

    __tablename__ = "job_tags"

    tag: Mapped[str] = mapped_column(String(30), primary_key=True)
    job_id: Mapped[str] = _job_key(primary_key=True)


class DatasetRow(Owned, Base):
    """An uploaded dataset; ``facts`` says what it holds. The file had ``size_bytes``, what we keep ``stored_bytes``."""

    __tablename__ = "datasets"

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    format: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    facts: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class IdempotencyKey(Base):
    """The answer to a submission that carried an Idempotency-Key, which is unique within a project.

    ``created_s`` is in seconds since 1970 on the database's clock.
    """

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    spec_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = _job_key()
    answer: Mapped[dict[str, JsonValue]]
    created_s: Mapped[float | None] = mapped_column(index=True)


class Arm(Base):
    """One arm of a job: ``warpadam``, a baseline or a control."""

    __tablename__ = "job_arms"

    job_id: Mapped[str] = _job_key(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    position: Mapped[int]
    state: Mapped[ArmState] = mapped_column(String(16), default=ArmState.QUEUED)
    seconds_used: Mapped[float] = mapped_column(default=0.0)


class _Attempts:
    """Columns of a run that is started again when its process dies: how often it was started, and what came of it.

    ``furthest_step`` is the last step that an attempt had reached when it was lost. ``losses`` counts the attempts that
    ended with the death of the run's own process, ``worker_deaths`` those that ended with the death of its worker. An
    attempt that came further than all before it counts in neither.
    """

    attempts: Mapped[int] = mapped_column(default=0)
    furthest_step: Mapped[int] = mapped_column(default=0, server_default="0")
    losses: Mapped[int] = mapped_column(default=0, server_default="0")
    worker_deaths: Mapped[int] = mapped_column(default=0, server_default="0")


LIVE_TRIALS: Final = text("state IN ('queued', 'running')")
"""The trials in the index ``ix_job_trials_live``. A query must say it in the same words, without parameters."""


class Trial(_Attempts, Base):
    """One trial of an arm; ``number`` counts within the job, across its arms.

    ``value`` is what the search minimises, and ``val_loss`` the validation loss of the point that is judged.
    """

    __tablename__ = "job_trials"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        Index("ix_job_trials_arm", "job_id", "arm", "state"),
        Index("ix_job_trials_live", "state", postgresql_where=LIVE_TRIALS, sqlite_where=LIVE_TRIALS),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = _job_key()
    number: Mapped[int]
    arm: Mapped[str] = mapped_column(String(40))
    state: Mapped[TrialState] = mapped_column(String(16))
    params: Mapped[dict[str, Scalar]]
    value: Mapped[float | None]
    val_loss: Mapped[float | None]
    last_step: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[float] = mapped_column(default=0.0)
    cause: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class TrialPoint(Base):
    """One point of a trial's learning curve; ``seconds`` is training time since the trial's first step."""

    __tablename__ = "job_trial_points"

    trial_id: Mapped[int] = mapped_column(ForeignKey("job_trials.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    train_loss: Mapped[float]
    val_loss: Mapped[float]
    seconds: Mapped[float]
    val_score: Mapped[float | None]


class ConfirmRun(_Attempts, Base):
    """One run of a finalist on a fresh seed: phase ``select`` is judged on validation, ``confirm`` on test.

    ``curve`` is its learning curve, as ledger/queries.py reads and writes it.
    """

    __tablename__ = "job_confirm_runs"
    __table_args__ = (UniqueConstraint("job_id", "phase", "trial_number", "seed"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = _job_key()
    phase: Mapped[str] = mapped_column(String(16))
    arm: Mapped[str] = mapped_column(String(40))
    trial_number: Mapped[int]
    seed: Mapped[int]
    state: Mapped[TrialState] = mapped_column(String(16))
    val_loss: Mapped[float | None]
    test_loss: Mapped[float | None]
    test_score: Mapped[float | None]
    curve: Mapped[list[list[Any]]] = mapped_column(JSON, default=list, server_default="[]")
    seconds: Mapped[float] = mapped_column(default=0.0)
    cause: Mapped[str | None] = mapped_column(Text)


class RecommendationRow(Base):
    """The result of a job."""

    __tablename__ = "job_recommendations"

    job_id: Mapped[str] = _job_key(primary_key=True)
    verdict: Mapped[str] = mapped_column(String(16))
    arm: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Notification(Base):
    """A message that a job has ended, until it has been sent.

    ``id`` is the same in every attempt. ``data`` is what the message tells. ``due_s`` is when the next attempt may
    begin, in seconds since 1970 on the database's clock; NULL when there is none.
    """

    __tablename__ = "job_notifications"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = _job_key()
    url: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, JsonValue]]
    attempts: Mapped[int] = mapped_column(default=0)
    due_s: Mapped[float | None] = mapped_column(index=True)


class Event(Base):
    """Something that happened to a job, in order."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job", "job_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = _job_key()
    at: Mapped[datetime] = mapped_column(default=utc_now)
    kind: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]


class AuditLine(Base):
    """A change that somebody made or was refused, and every other refusal.

    ``who`` is the id of an API key, ``local`` for the machine of a service without keys, ``nobody``, or the user of a
    command. ``operation`` is the name of the route or command; it is empty if the request was refused before.
    ``target`` is the path, or that of what was made.
    """

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    who: Mapped[str] = mapped_column(String(64))
    project: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    operation: Mapped[str] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(200))
    status: Mapped[int | None]
    request_id: Mapped[str | None] = mapped_column(String(64))


class Total(Base):
    """A number that only grows, for monitoring: how often something happened since the table was made.

    Its value is the sum over all shards, so that jobs of different workers rarely write the same row. ``bucket`` is
    that of a histogram, or ``sum``; it is empty for a plain counter.
    """

    __tablename__ = "totals"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    label: Mapped[str] = mapped_column(String(40), primary_key=True)
    bucket: Mapped[str] = mapped_column(String(16), primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float]
