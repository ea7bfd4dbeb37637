"""When an Idempotency-Key was used, how many bytes jobs and datasets keep, and whose jobs wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009_limits"
down_revision = "0008_notifications"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("idempotency_keys", sa.Column("created_s", sa.Double(), nullable=True))
    op.create_index("ix_idempotency_keys_created_s", "idempotency_keys", ["created_s"])
    for table in ("jobs", "datasets"):
        op.add_column(table, sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index("ix_jobs_waiting", "jobs", ["state", "owner", "priority"])
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    now = "(julianday('now') - 2440587.5) * 86400.0" if is_sqlite else "extract(epoch from now())"
    op.execute(f"UPDATE idempotency_keys SET created_s = {now}")  # noqa: S608 - no text from outside
    op.execute("UPDATE datasets SET stored_bytes = size_bytes")


def downgrade() -> None:
    op.drop_index("ix_jobs_waiting", "jobs")
    for table in ("datasets", "jobs"):
        op.drop_column(table, "stored_bytes")
    op.drop_index("ix_idempotency_keys_created_s", "idempotency_keys")
    op.drop_column("idempotency_keys", "created_s")
