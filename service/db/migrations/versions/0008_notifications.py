"""The messages that jobs have ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_notifications"
down_revision = "0007_api_keys"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_notifications",
        sa.Column("id", sa.String(length=40), primary_key=True, nullable=False),
        sa.Column("job_id", sa.String(length=40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_s", sa.Double(), nullable=True),
    )
    op.create_index("ix_job_notifications_due_s", "job_notifications", ["due_s"])


def downgrade() -> None:
    op.drop_table("job_notifications")
