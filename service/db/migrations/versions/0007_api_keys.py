"""API keys, the browsers that signed in with one, and the project that each dataset belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_api_keys"
down_revision = "0006_queue"
branch_labels = None
depends_on = None

LOCAL = "local"


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=16), primary_key=True, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_table(
        "browser_sessions",
        sa.Column("sha256", sa.String(length=64), primary_key=True, nullable=False),
        sa.Column("key_id", sa.String(length=16), sa.ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.add_column("datasets", sa.Column("owner", sa.String(length=64), nullable=False, server_default=LOCAL))
    op.create_index("ix_jobs_of_owner", "jobs", ["owner", "seq"])
    _rebuild_idempotency_keys(
        ["owner", "key"],
        "INSERT INTO idempotency_keys (owner, key, spec_sha256, job_id, answer) "
        "SELECT 'local', key, spec_sha256, job_id, answer FROM old_idempotency_keys",
    )


def downgrade() -> None:
    _rebuild_idempotency_keys(
        ["key"],
        "INSERT INTO idempotency_keys (key, spec_sha256, job_id, answer) "
        "SELECT key, spec_sha256, job_id, answer FROM old_idempotency_keys WHERE owner = 'local'",
    )
    op.drop_index("ix_jobs_of_owner", "jobs")
    op.drop_column("datasets", "owner")
    op.drop_table("browser_sessions")
    op.drop_table("api_keys")


def _rebuild_idempotency_keys(key: list[str], copy: str) -> None:
    """Give the table another primary key. SQLite cannot change that of a table, so ``copy`` fills another one."""
    op.rename_table("idempotency_keys", "old_idempotency_keys")
    op.create_table(
        "idempotency_keys",
        *(sa.Column(name, sa.String(length={"key": 255, "owner": 64}[name]), nullable=False) for name in key),
        sa.Column("spec_sha256", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint(*key),
    )
    op.execute(copy)
    op.drop_table("old_idempotency_keys")
