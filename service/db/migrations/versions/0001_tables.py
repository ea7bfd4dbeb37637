"""The tables of the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_tables"
down_revision = None
branch_labels = None
depends_on = None


def _job_id(*, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(
        "job_id",
        sa.String(length=40),
        sa.ForeignKey("jobs.id", ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=False,
    )


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=40), unique=True, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("dataset", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("data_sha256", sa.String(length=64), nullable=True),
        sa.Column("dataset_info", sa.JSON(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("looks", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("lease_worker", sa.String(length=200), nullable=True),
        sa.Column("lease_token", sa.Integer(), nullable=False),
        sa.Column("lease_expires_s", sa.Double(), nullable=True),
    )
    op.create_index("ix_jobs_state", "jobs", ["state", "seq"])
    op.create_table(
        "datasets",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=40), unique=True, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(length=255), primary_key=True, nullable=False),
        sa.Column("spec_sha256", sa.String(length=64), nullable=False),
        _job_id(),
        sa.Column("answer", sa.JSON(), nullable=False),
    )
    op.create_table(
        "job_arms",
        _job_id(primary_key=True),
        sa.Column("name", sa.String(length=40), primary_key=True, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("seconds_used", sa.Double(), nullable=False),
    )
    op.create_table(
        "job_trials",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True, nullable=False),
        _job_id(),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("arm", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("last_step", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.UniqueConstraint("job_id", "number"),
    )
    op.create_index("ix_job_trials_arm", "job_trials", ["job_id", "arm", "state"])
    op.create_table(
        "job_trial_points",
        sa.Column(
            "trial_id",
            sa.Integer(),
            sa.ForeignKey("job_trials.id", ondelete="CASCADE"),
            primary_key=True,
            nullable=False,
        ),
        sa.Column("step", sa.Integer(), primary_key=True, nullable=False),
        sa.Column("train_loss", sa.Double(), nullable=False),
        sa.Column("val_loss", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("val_score", sa.Double(), nullable=True),
    )
    op.create_table(
        "job_confirm_runs",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True, nullable=False),
        _job_id(),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("arm", sa.String(length=40), nullable=False),
        sa.Column("trial_number", sa.Integer(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("val_loss", sa.Double(), nullable=True),
        sa.Column("test_loss", sa.Double(), nullable=True),
        sa.Column("test_score", sa.Double(), nullable=True),
        sa.Column("curve", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.UniqueConstraint("job_id", "phase", "trial_number", "seed"),
    )
    op.create_table(
        "job_recommendations",
        _job_id(primary_key=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("arm", sa.String(length=40), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "job_events",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True, nullable=False),
        _job_id(),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
    )
    op.create_index("ix_job_events_job", "job_events", ["job_id", "id"])


def downgrade() -> None:
    for table in (
        "job_events",
        "job_recommendations",
        "job_confirm_runs",
        "job_trial_points",
        "job_trials",
        "job_arms",
        "idempotency_keys",
        "datasets",
        "jobs",
    ):
        op.drop_table(table)
