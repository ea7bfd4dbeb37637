# The tables. Nothing here decides anything: ledger/ is the only writer. Optuna keeps its own tables (studies, trials,
# ...) in the same database; ours have other names.
"""SQLAlchemy models of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

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
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.states import ArmState, JobState, TrialState


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite forgets the zone and PostgreSQL answers in its own: both come back as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Attach UTC where the database returned a naive value."""
        del dialect
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of the tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, StrEnum: String(16)}  # noqa: RUF012


def _job_key() -> Mapped[str]:
    return mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))


class Job(Base):
    """One tuning job, with its lease.

    ``dataset_info`` is what is known of an uploaded dataset and of user code, NULL where there is neither. ``looks``
    counts how many times its confirmation is judged: one more with each extension. ``lease_token`` grows with every
    claim: a write that carries an older one is refused. ``lease_expires_s`` is in seconds since 1970 on the database's
    clock.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_state", "state", "seq"),)

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    dataset: Mapped[str] = mapped_column(String(100))
    state: Mapped[JobState] = mapped_column(String(16), default=JobState.QUEUED)
    spec: Mapped[dict[str, Any]]
    cause: Mapped[str | None] = mapped_column(Text)
    data_sha256: Mapped[str | None] = mapped_column(String(64))
    dataset_info: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    looks: Mapped[int] = mapped_column(default=1, server_default="1")
    lease_worker: Mapped[str | None] = mapped_column(String(200))
    lease_token: Mapped[int] = mapped_column(default=0)
    lease_expires_s: Mapped[float | None]


class DatasetRow(Base):
    """An uploaded dataset; ``facts`` is what it was found to hold."""

    __tablename__ = "datasets"

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    format: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class IdempotencyKey(Base):
    """The answer to a submission that carried an Idempotency-Key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    spec_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = _job_key()
    answer: Mapped[dict[str, Any]]


class Arm(Base):
    """One optimizer family of a job: ``warpadam`` or a baseline."""

    __tablename__ = "job_arms"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    position: Mapped[int]
    state: Mapped[ArmState] = mapped_column(String(16), default=ArmState.QUEUED)
    seconds_used: Mapped[float] = mapped_column(default=0.0)


class Trial(Base):
    """One trial of an arm; ``number`` counts within the job, across its arms."""

    __tablename__ = "job_trials"
    __table_args__ = (UniqueConstraint("job_id", "number"), Index("ix_job_trials_arm", "job_id", "arm", "state"))

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = _job_key()
    number: Mapped[int]
    arm: Mapped[str] = mapped_column(String(40))
    state: Mapped[TrialState] = mapped_column(String(16))
    params: Mapped[dict[str, Any]]
    value: Mapped[float | None]
    last_step: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    cause: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
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


class ConfirmRun(Base):
    """One run of a finalist on a fresh seed: phase ``select`` is judged on validation, ``confirm`` on test.

    ``curve`` is its learning curve, as ledger/curves.py reads and writes it.
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
    curve: Mapped[list[list[float | None]]] = mapped_column(JSON, default=list, server_default="[]")
    seconds: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    cause: Mapped[str | None] = mapped_column(Text)


class RecommendationRow(Base):
    """The result of a job."""

    __tablename__ = "job_recommendations"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    verdict: Mapped[str] = mapped_column(String(16))
    arm: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Event(Base):
    """Something that happened to a job, in order."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job", "job_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = _job_key()
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
