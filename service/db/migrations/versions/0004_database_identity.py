"""The id of the database, by which a process notices that it was replaced."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004_database_identity"
down_revision = "0003_lost_attempts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "database_identity", sa.Column("id", sa.String(length=32), primary_key=True, nullable=False)
    )
    op.bulk_insert(table, [{"id": secrets.token_hex(16)}])


def downgrade() -> None:
    op.drop_table("database_identity")
