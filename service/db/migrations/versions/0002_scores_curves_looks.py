"""Scores, the curves of confirmation runs, and how often a job was judged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # not in batches, which on SQLite may make a table anew and with the old one delete the rows that refer to it
    op.add_column("jobs", sa.Column("looks", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("job_trial_points", sa.Column("val_score", sa.Double(), nullable=True))
    op.add_column("job_confirm_runs", sa.Column("test_score", sa.Double(), nullable=True))
    op.add_column("job_confirm_runs", sa.Column("curve", sa.JSON(), nullable=False, server_default="[]"))
    _rename_figures()


def _rename_figures() -> None:
    """Earlier recommendations: what was the loss is a value now, and pairs repeat the test losses."""
    table = sa.table("job_recommendations", sa.column("job_id", sa.String()), sa.column("data", sa.JSON()))
    connection = op.get_bind()
    for job_id, data in connection.execute(sa.select(table.c.job_id, table.c.data)).all():
        for finalist in data["finalists"]:
            finalist["value"] = finalist.pop("val_loss")
        for pair in data["pairs"]:
            pair |= {f"{role}_test_loss": pair[role] for role in ("baseline", "warpadam")}
        connection.execute(sa.update(table).where(table.c.job_id == job_id).values(data=data))


def downgrade() -> None:
    op.drop_column("job_confirm_runs", "curve")
    op.drop_column("job_confirm_runs", "test_score")
    op.drop_column("job_trial_points", "val_score")
    op.drop_column("jobs", "looks")
