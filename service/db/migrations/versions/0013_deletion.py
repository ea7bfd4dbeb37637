"""Which jobs are being deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013_deletion"
down_revision = "0012_worker_seconds"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("delete_requested", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("jobs", "delete_requested")
