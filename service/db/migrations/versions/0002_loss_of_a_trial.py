"""The validation loss of a trial, which decides between trials of equal value."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_loss_of_a_trial"
down_revision = "0001_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job_trials", sa.Column("val_loss", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("job_trials", "val_loss")
