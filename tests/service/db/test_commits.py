# The mark of the last commit: no answer is older than a commit that had finished, and no fault of the server lasts.
from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import text

from service.api.cache import CommitCache
from service.db import commits as module
from service.db.commits import LastCommit, Mark, PostgresLastCommit, last_commit
from service.db.session import Database
from service.ledger import jobs
from service.spec.job import JobSpec
from tests.conftest import SpecMaker
from tests.service.servers import FULL_POOL, postgresql_only, stopped


@pytest.fixture
def commits(db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[LastCommit]:
    """The last commit of the test's database. It has patience, for busy machines."""
    monkeypatch.setattr(module, "PATIENCE_S", 30.0)
    opened = last_commit(db)
    yield opened
    opened.close()


@pytest.fixture
def job_id(db: Database, spec: SpecMaker) -> str:
    """A job."""
    with db.write() as session:
        return jobs.add(session, JobSpec.model_validate(spec()), ["warpadam", "adamw"]).id


@pytest.fixture
def commit(db: Database, job_id: str) -> Callable[[], None]:
    """Commits something on another connection."""

    def write() -> None:
        with db.write() as session:
            jobs.record_event(session, job_id, "test")

    return write


def test_the_mark_changes_with_every_commit_and_with_nothing_else(
    commits: LastCommit, db: Database, job_id: str
) -> None:
    async def ask() -> list[Mark | None]:
        marks = []
        for _ in range(5):
            marks.append(await commits.mark())
            with db.read() as session:
                jobs.require_job(session, job_id)
            assert await commits.mark() == marks[-1]
            with db.write() as session:
                jobs.record_event(session, job_id, "test")
                session.flush()
                await commits.mark()  # before the commit it may be anything
        return marks

    marks = asyncio.run(ask())
    assert len(set(marks)) == 5
    assert None not in marks


def test_many_readers_never_get_what_is_older_than_a_commit_that_had_finished(
    commits: LastCommit, db: Database, commit: Callable[[], None]
) -> None:
    kept: CommitCache[int] = CommitCache(10)
    finished, computed = 0, 0

    def count() -> int:
        with db.read() as session:
            return int(session.scalar(text("SELECT count(*) FROM job_events WHERE kind = 'test'")) or 0)

    def write() -> None:
        nonlocal finished
        for number in range(1, 101):
            commit()
            finished = number
            time.sleep(0.005)  # so that the readers ask several times between two commits

    async def read(writer: Thread) -> None:
        nonlocal computed

        async def compute() -> int:
            nonlocal computed
            computed += 1
            return await asyncio.to_thread(count)

        while writer.is_alive():
            least = finished
            found = await kept.get("events", await commits.mark(), compute)
            assert found is not None
            assert found >= least

    async def read_all() -> None:
        writer = Thread(target=write)
        writer.start()
        try:
            await asyncio.gather(*(read(writer) for _ in range(10)))
        finally:
            await asyncio.to_thread(writer.join)

    asyncio.run(read_all())
    assert finished == 100
    assert computed > 1


@postgresql_only
def test_whoever_comes_after_a_question_was_sent_gets_the_answer_to_the_next(
    commits: PostgresLastCommit, commit: Callable[[], None]
) -> None:
    async def ask() -> tuple[Mark | None, Mark | None, Mark | None]:
        before = await commits.mark()
        first = asyncio.create_task(commits.mark())
        while commits._sent is None:
            await asyncio.sleep(0)
        assert select.select([commits._connection], [], [], 30)[0]  # the server has answered; the loop has not read it
        commit()
        second = asyncio.create_task(commits.mark())
        return before, await first, await second

    before, first, second = asyncio.run(ask())
    assert first == before
    assert second not in (None, before)


@postgresql_only
def test_requests_that_come_together_share_a_question(
    commits: PostgresLastCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Counted(module._Question):
        def answer(self, mark: Mark | None) -> None:
            asked.append(mark)
            super().answer(mark)

    monkeypatch.setattr(module, "_Question", Counted)

    async def ask() -> list[Mark | None]:
        await commits.mark()
        asked.clear()
        return await asyncio.gather(*(commits.mark() for _ in range(100)))

    assert set(asyncio.run(ask())) == set(asked)
    assert len(asked) == 1


@postgresql_only
def test_a_request_that_is_cancelled_takes_the_answer_from_nobody(commits: PostgresLastCommit) -> None:
    async def ask() -> list[Any]:
        asked = [asyncio.create_task(commits.mark()) for _ in range(3)]
        await asyncio.sleep(0)
        asked[1].cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    first, cancelled, last = asyncio.run(ask())
    assert first == last is not None
    assert isinstance(cancelled, asyncio.CancelledError)


async def first_mark(commits: LastCommit) -> Mark:
    """Return the next mark that is known."""
    deadline = time.monotonic() + 30.0
    while (mark := await commits.mark()) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return mark


@postgresql_only
@pytest.mark.parametrize("is_asked", [False, True])
def test_a_connection_that_ends_is_replaced_and_its_marks_count_no_more(
    commits: PostgresLastCommit, db: Database, *, is_asked: bool
) -> None:
    """As after a restart of the server, also with an older copy of its data, whose numbers may come a second time."""

    async def ask() -> tuple[Mark, Mark]:
        before = await first_mark(commits)
        with db.engine.connect() as connection:
            ended = {"pid": commits._connection.info.backend_pid}
            asked = [asyncio.create_task(commits.mark())] if is_asked else []
            connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), ended)
        await asyncio.gather(*asked)
        return before, await first_mark(commits)

    before, after = asyncio.run(ask())
    assert before != after


@postgresql_only
def test_a_server_that_is_silent_has_no_mark_until_it_answers_again(
    commits: PostgresLastCommit, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.read() as session:
        data = session.scalar(text("SHOW data_directory"))

    async def ask() -> None:
        await first_mark(commits)
        monkeypatch.setattr(module, "PATIENCE_S", 0.25)
        with stopped(data):
            assert await asyncio.gather(*(commits.mark() for _ in range(5))) == [None] * 5
            assert await commits.mark() is None
        await first_mark(commits)

    asyncio.run(ask())


def test_without_a_server_nobody_waits_for_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 60.0)

    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]

    async def ask(commits: PostgresLastCommit) -> Mark | None:
        return await asyncio.wait_for(commits.mark(), 30.0)

    with closing(Database(f"postgresql+psycopg://nobody@127.0.0.1:{port}/none")) as nowhere:
        assert asyncio.run(ask(PostgresLastCommit(nowhere))) is None


@postgresql_only
def test_the_mark_needs_no_connection_of_the_pool(commits: PostgresLastCommit, db: Database) -> None:
    async def ask() -> Mark | None:
        await first_mark(commits)
        held = [db.engine.connect() for _ in range(FULL_POOL)]
        mark = await commits.mark()
        for connection in held:
            connection.close()
        return mark

    assert asyncio.run(ask()) is not None


@postgresql_only
def test_another_event_loop_gets_a_connection_of_its_own(commits: PostgresLastCommit) -> None:
    marks = [asyncio.run(first_mark(commits)) for _ in range(3)]
    assert len(set(marks)) == 3


@postgresql_only
def test_closing_leaves_no_connection(commits: PostgresLastCommit, db: Database) -> None:
    async def ask() -> None:
        await first_mark(commits)
        pid = commits._connection.info.backend_pid
        commits.close()
        asked = asyncio.create_task(commits.mark())
        while commits._opening is None:
            await asyncio.sleep(0)
        opening = commits._opening
        commits.close()  # while another is opened
        await opening
        assert await asked is None
        assert commits._connection is None
        deadline = time.monotonic() + 30.0
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            here = text("SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_current_snapshot()' AND pid = :pid")
            while connection.scalar(here, {"pid": pid}) is not None:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    asyncio.run(ask())


def test_without_a_server_there_is_no_mark() -> None:
    with closing(Database("postgresql+psycopg://me@127.0.0.1:1/none", 1.0)) as database:
        commits = last_commit(database)
        assert asyncio.run(commits.mark()) is None
        commits.close()
