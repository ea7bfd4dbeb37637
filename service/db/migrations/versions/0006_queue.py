"""The place of a job in the queue, and whether it is paused or stopped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_queue"
down_revision = "0005_tags"
branch_labels = None
depends_on = None


def columns() -> list[sa.Column[object]]:
    return [
        sa.Column("owner", sa.String(length=64), nullable=False, server_default="local"),
        sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("pause_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("stop_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("counted_trials", sa.Integer(), nullable=True),
        sa.Column("claimed_s", sa.Double(), nullable=True),
    ]


def upgrade() -> None:
    for column in columns():
        op.add_column("jobs", column)
    op.create_index("ix_jobs_owner", "jobs", ["owner", "claimed_s"])


def downgrade() -> None:
    op.drop_index("ix_jobs_owner", "jobs")
    for column in columns():
        op.drop_column("jobs", column.name)
