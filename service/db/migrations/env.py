"""Alembic's entry point for the ledger's tables. session.py gives it an open connection, never a URL."""

from __future__ import annotations

from alembic import context

from service.db.models import Base
from service.db.session import VERSION_TABLE, is_ours

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    include_name=is_ours,
    render_as_batch=True,
)
context.run_migrations()
