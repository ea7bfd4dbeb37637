"""The tags of jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_tags"
down_revision = "0004_database_identity"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_tags",
        sa.Column("tag", sa.String(length=30), primary_key=True, nullable=False),
        sa.Column(
            "job_id",
            sa.String(length=40),
            sa.ForeignKey("jobs.id", ondelete="CASCADE"),
            primary_key=True,
            nullable=False,
        ),
    )


def downgrade() -> None:
    op.drop_table("job_tags")
