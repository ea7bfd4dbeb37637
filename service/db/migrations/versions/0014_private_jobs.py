"""Which jobs wait for a worker that may import their code."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014_private_jobs"
down_revision = "0013_deletion"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("needs_module", sa.Text()))


def downgrade() -> None:
    op.drop_column("jobs", "needs_module")
