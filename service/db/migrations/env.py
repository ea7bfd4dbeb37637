# Alembic's entry point. It is always given an open connection (session.py), never a URL; its version table has a name
# of its own, because Optuna keeps one called alembic_version in the same database.
"""Alembic environment of the ledger's tables."""

from __future__ import annotations

from alembic import context

from service.db.models import Base

VERSION_TABLE = "warptune_version"


def _is_ours(name: str | None, kind: str, parents: object) -> bool:
    del parents
    return kind != "table" or name in Base.metadata.tables


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    include_name=_is_ours,
    render_as_batch=True,
)
context.run_migrations()
