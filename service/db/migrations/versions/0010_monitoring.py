"""What monitoring reads: totals, since when a job waits, which request queued it, and the trials that are not over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010_monitoring"
down_revision = "0009_limits"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "totals",
        sa.Column("name", sa.String(length=40), primary_key=True, nullable=False),
        sa.Column("label", sa.String(length=40), primary_key=True, nullable=False),
        sa.Column("bucket", sa.String(length=16), primary_key=True, nullable=False),
        sa.Column("shard", sa.Integer(), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("value", sa.Double(), nullable=False),
    )
    op.add_column("jobs", sa.Column("request_id", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE jobs SET queued_at = created_at")
    live = sa.text("state IN ('queued', 'running')")
    op.create_index("ix_job_trials_live", "job_trials", ["state"], postgresql_where=live, sqlite_where=live)


def downgrade() -> None:
    op.drop_index("ix_job_trials_live", "job_trials")
    op.drop_column("jobs", "queued_at")
    op.drop_column("jobs", "request_id")
    op.drop_table("totals")
