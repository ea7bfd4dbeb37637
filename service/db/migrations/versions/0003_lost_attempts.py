"""How the attempts at a run ended: with its own death, or with that of its worker."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_lost_attempts"
down_revision = "0002_loss_of_a_trial"
branch_labels = None
depends_on = None

TABLES = ("job_trials", "job_confirm_runs")
COLUMNS = ("furthest_step", "losses", "worker_deaths")


def upgrade() -> None:
    for table in TABLES:
        for column in COLUMNS:
            op.add_column(table, sa.Column(column, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    for table in TABLES:
        for column in COLUMNS:
            op.drop_column(table, column)
