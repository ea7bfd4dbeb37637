# A database that is opened for a project skips the rows of other projects, whatever is asked.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from alembic import command
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session, aliased

from service.db.models import DatasetRow, Job, Trial
from service.db.session import Database, alembic_config

Other = aliased(Job)

READS: dict[str, Callable[[Session], Any]] = {
    "rows": lambda session: [job.id for job in session.scalars(select(Job))],
    "a column": lambda session: session.scalars(select(Job.id)).all(),
    "a row by its id": lambda session: [j.id for j in session.scalars(select(Job).where(Job.id.startswith("job-")))],
    "a locked row": lambda session: session.scalars(select(Job.id).with_for_update()).all(),
    "an alias": lambda session: session.scalars(select(Other.id)).all(),
    "a subquery": lambda session: session.scalars(select(Job.id).where(Job.seq.in_(select(Other.seq)))).all(),
    "a join": lambda session: session.scalars(select(Job.id).join(Trial, Trial.job_id == Job.id)).all(),
    "the old way": lambda session: [job.id for job in session.query(Job).all()],
}


@pytest.fixture
def projects(db: Database) -> tuple[Database, Database]:
    """Two projects with a job each, which has a trial."""
    found = db.of("a"), db.of("b")
    for own in found:
        with own.write() as session:
            session.add(Job(id=f"job-{own.owner}", name="", dataset="wine", spec={}))
            session.flush()
            session.add(Trial(job_id=f"job-{own.owner}", number=0, arm="adamw", state="queued", params={}))
    return found


@pytest.mark.parametrize("name", READS)
def test_a_project_reads_only_its_own_rows(db: Database, projects: tuple[Database, Database], name: str) -> None:
    for own in projects:
        with own.read() as session:
            assert READS[name](session) == [f"job-{own.owner}"]
    with db.of("c").read() as session:
        assert READS[name](session) == []
    for everything in (db, db.of("c", sees_all=True)):
        with everything.read() as session:
            assert sorted(READS[name](session)) == ["job-a", "job-b"]


def test_a_project_counts_changes_and_deletes_only_its_own_rows(projects: tuple[Database, Database]) -> None:
    mine, theirs = projects
    with mine.write() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1
        assert session.get(Job, session.scalars(select(Job.seq)).one()) is not None
        session.execute(update(Job).values(name="changed"))
    with theirs.read() as session:
        (job,) = session.scalars(select(Job))
        assert job.name == ""
    with mine.read() as session:
        assert session.get(Job, job.seq) is None
    with mine.write() as session:
        session.execute(delete(Job))
    with theirs.read() as session:
        assert session.scalars(select(Job.id)).all() == ["job-b"]


def test_a_new_row_belongs_to_the_project_whatever_it_says(db: Database) -> None:
    with db.of("a").write() as session:
        session.add(Job(id="job-0", name="", dataset="wine", spec={}, owner="b"))
        row = DatasetRow(id="ds-0", name="", format="csv", sha256="", size_bytes=0, facts={})
        session.add(row)
    with db.of("a").read() as session:
        assert [session.scalar(select(table.owner)) for table in (Job, DatasetRow)] == ["a", "a"]
    with db.write() as session:  # as a worker, which sees all
        session.add_all(Job(id=f"job-{owner}", name="", dataset="", spec={}, owner=owner) for owner in ("b", None))
    with db.read() as session:
        assert session.scalars(select(Job.owner).order_by(Job.seq)).all() == ["a", "b", "local"]


def test_what_was_stored_before_there_were_keys_belongs_to_the_project_local(db: Database) -> None:
    with db.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0005_tags")
        columns = "id, name, dataset, state, spec, cancel_requested, created_at, looks, lease_token"
        values = "'job-0', '', 'wine', 'queued', '{}', false, '2026-01-01 00:00:00', 1, 0"
        connection.execute(text(f"INSERT INTO jobs ({columns}) VALUES ({values})"))
        connection.execute(text("INSERT INTO idempotency_keys VALUES ('key', 'hash', 'job-0', '{}')"))
        command.upgrade(alembic_config(connection), "head")
        assert connection.execute(text("SELECT owner FROM jobs")).all() == [("local",)]
        kept = connection.execute(text("SELECT owner, key, spec_sha256, job_id FROM idempotency_keys")).all()
        assert kept == [("local", "key", "hash", "job-0")]
        command.downgrade(alembic_config(connection), "0005_tags")
        assert connection.execute(text("SELECT key, job_id FROM idempotency_keys")).all() == [("key", "job-0")]
