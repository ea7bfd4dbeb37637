"""How long workers have had each job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012_worker_seconds"
down_revision = "0011_audit"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("worker_seconds", sa.Double(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("jobs", "worker_seconds")
