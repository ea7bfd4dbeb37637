"""Scores, the curves of confirmation runs, and how often a job was judged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("looks", sa.Integer(), nullable=False, server_default="1"))
    with op.batch_alter_table("job_trial_points") as batch_op:
        batch_op.add_column(sa.Column("val_score", sa.Double(), nullable=True))
    with op.batch_alter_table("job_confirm_runs") as batch_op:
        batch_op.add_column(sa.Column("test_score", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("curve", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("job_confirm_runs") as batch_op:
        batch_op.drop_column("curve")
        batch_op.drop_column("test_score")
    with op.batch_alter_table("job_trial_points") as batch_op:
        batch_op.drop_column("val_score")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("looks")
