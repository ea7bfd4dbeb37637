# From a request to a queued job: the files of a job are there before it is, and go again if it does not come to be.
from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.artifacts import ArtifactStore
from service.db.models import IdempotencyKey, Job
from service.db.session import Database
from service.errors import IdempotencyConflictError, InvalidSpecError
from service.ledger.idempotency import KeyedRequest, answer_once
from service.settings import Settings
from service.spec.job import BudgetSpec, ExtendSpec, JobSpec
from service.submission import Context
from service.submission import submit as submission
from service.submission.earlier_trials import EARLIER_TRIALS_FILE
from service.submission.extend import extend
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, succeed
from tests.service.conftest import Submit, get_job
from tests.service.submission.test_earlier_trials import earlier_job

DAY_S = 86_400.0

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def wanted(db: Database, submit: Submit, spec: SpecMaker) -> JobSpec:
    """The spec of a job that comes with a file."""
    source = earlier_job(db, submit)
    return JobSpec.model_validate(spec(search={"sampler": "tpe", "pruner": "none", "from_job": source}))


def render(session: Session, job: Job) -> dict[str, Any]:
    del session
    return {"id": job.id}


def folders(settings: Settings) -> list[str]:
    top = Path(settings.artifacts_url) / "jobs"
    return [folder.name for folder in top.iterdir()] if top.exists() else []


def jobs_in(db: Database) -> int:
    with db.read() as session:
        return session.query(Job).count()


def test_files_are_stored_under_the_id_of_the_job(context: Context, wanted: JobSpec, db: Database) -> None:
    answer = submission.submit(context, wanted, render)
    assert not answer.replayed
    job_id = str(answer.body["id"])
    assert get_job(db, job_id).spec["search"] == wanted.search.model_dump()
    assert context.artifacts.get(job_id, EARLIER_TRIALS_FILE) is not None


def test_files_are_there_before_a_worker_can_take_the_job(context: Context, wanted: JobSpec) -> None:
    seen = []

    def look(session: Session, job: Job) -> dict[str, Any]:
        del session
        seen.append(context.artifacts.get(job.id, EARLIER_TRIALS_FILE) is not None)
        return {"id": job.id}

    submission.submit(context, wanted, look)
    assert seen == [True]


def test_files_of_a_job_that_is_not_queued_are_deleted(
    context: Context, wanted: JobSpec, db: Database, settings: Settings
) -> None:
    before = jobs_in(db)

    def fail(session: Session, job: Job) -> dict[str, Any]:
        assert folders(settings) == [job.id]
        raise RuntimeError("the database is gone")

    with pytest.raises(RuntimeError, match="the database is gone"):
        submission.submit(context, wanted, fail)
    assert (folders(settings), jobs_in(db)) == ([], before)


@pytest.mark.parametrize("is_stored", [True, False])
def test_files_are_kept_if_the_connection_breaks_at_a_commit_that_went_through(
    context: Context,
    wanted: JobSpec,
    db: Database,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    is_stored: bool,
) -> None:
    before, commit = jobs_in(db), db.engine.dialect.do_commit

    def break_once(connection: Any) -> None:
        monkeypatch.setattr(db.engine.dialect, "do_commit", commit)
        if is_stored:
            commit(connection)
        raise sqlite3.OperationalError("the server closed the connection")

    monkeypatch.setattr(db.engine.dialect, "do_commit", break_once)
    with pytest.raises(OperationalError):
        submission.submit(context, wanted, render, "key")
    assert (len(folders(settings)), jobs_in(db)) == (is_stored, before + is_stored)
    answer = submission.submit(context, wanted, render, "key")
    assert (answer.replayed, folders(settings), jobs_in(db)) == (is_stored, [answer.body["id"]], before + 1)


def test_files_are_kept_if_nobody_can_tell_whether_the_job_was_stored(
    context: Context, wanted: JobSpec, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always_broken(connection: Any) -> None:
        raise sqlite3.OperationalError("the server closed the connection")

    monkeypatch.setattr(db.engine.dialect, "do_commit", always_broken)
    with pytest.raises(OperationalError):
        submission.submit(context, wanted, render)
    assert len(folders(settings)) == 1


def test_a_file_that_cannot_be_stored_queues_nothing(
    context: Context, wanted: JobSpec, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jobs_in(db)
    put = ArtifactStore.put

    def half(self: ArtifactStore, job_id: str, name: str, content: bytes) -> str:
        put(self, job_id, "half", content)
        raise OSError("no space left")

    monkeypatch.setattr(ArtifactStore, "put", half)
    with pytest.raises(OSError, match="no space left"):
        submission.submit(context, wanted, render)
    assert (folders(settings), jobs_in(db)) == ([], before)


def test_the_slower_of_two_with_one_key_leaves_no_file(
    context: Context, wanted: JobSpec, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = submission.submit(context, wanted, render, "key")
    monkeypatch.setattr(submission, "find_answer", lambda db, request: None)  # as if the first were not stored yet
    before = jobs_in(db)
    second = submission.submit(context, wanted, render, "key")
    assert (second.replayed, second.body) == (True, first.body)
    assert (folders(settings), jobs_in(db)) == ([first.body["id"]], before)


def test_a_replay_needs_nothing_that_the_job_was_made_from(context: Context, wanted: JobSpec, db: Database) -> None:
    first = submission.submit(context, wanted, render, "key")
    with db.write() as session:
        session.query(Job).filter(Job.id == wanted.search.from_job).delete()
    assert submission.submit(context, wanted, render, "key").body == first.body
    with pytest.raises(InvalidSpecError, match="names no job"):
        submission.submit(context, wanted, render, "another key")


class LaterBudget(BudgetSpec):
    added: int = 3


class LaterSpec(JobSpec):
    """A spec of a later version, which has more fields."""

    budget: LaterBudget = LaterBudget()
    also_added: str = "as before"


class LaterExtendSpec(ExtendSpec):
    also_added: str = "as before"


def test_the_same_body_is_the_same_to_a_version_with_more_fields(
    context: Context, spec: SpecMaker, db: Database
) -> None:
    first = submission.submit(context, JobSpec.model_validate(spec()), render, "key")
    again = submission.submit(context, LaterSpec.model_validate(spec()), render, "key")
    assert (again.replayed, again.body, jobs_in(db)) == (True, first.body, 1)
    for other in ({"also_added": "not as before"}, {"budget": {"added": 4}}):
        with pytest.raises(IdempotencyConflictError):
            submission.submit(context, LaterSpec.model_validate(spec(**other)), render, "key")


def test_the_same_extension_is_the_same_to_a_version_with_more_fields(
    context: Context, spec: SpecMaker, db: Database
) -> None:
    job_id = str(submission.submit(context, JobSpec.model_validate(spec()), render).body["id"])
    succeed(claim_job(db))
    more: dict[str, Any] = {"seeds": 2}
    extend(context, job_id, ExtendSpec.model_validate(more), render, "key")
    assert extend(context, job_id, LaterExtendSpec.model_validate(more), render, "key").replayed


def test_only_the_same_model_is_the_same_if_all_else_is_a_default(context: Context, spec: SpecMaker) -> None:
    mlp, autoencoder = (JobSpec.model_validate(spec(model={"name": name})) for name in ("mlp", "autoencoder"))
    submission.submit(context, mlp, render, "key")
    with pytest.raises(IdempotencyConflictError):
        submission.submit(context, autoencoder, render, "key")


def test_a_key_that_an_earlier_version_has_stored_is_known(context: Context, spec: SpecMaker, db: Database) -> None:
    wanted = JobSpec.model_validate(spec())
    first = submission.submit(context, wanted, render, "key")
    full = hashlib.sha256(json.dumps(wanted.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    with db.write() as session:
        session.execute(update(IdempotencyKey).values(spec_sha256=full))
    assert submission.submit(context, wanted, render, "key").body == first.body
    with pytest.raises(IdempotencyConflictError):
        submission.submit(context, JobSpec.model_validate(spec(seed=1)), render, "key")


def test_an_answer_without_a_key_is_never_a_replay(db: Database, submit: Submit) -> None:
    job_id = submit()

    def act(session: Session) -> Job:
        return session.query(Job).filter(Job.id == job_id).one()

    assert KeyedRequest.of(None, {"a": 1}, DAY_S) is None
    assert not any(answer_once(db, None, act, render).replayed for _ in range(2))
    asked = KeyedRequest.of("key", {"a": 1}, DAY_S)
    assert [answer_once(db, asked, act, render).replayed for _ in range(2)] == [False, True]
    with pytest.raises(IdempotencyConflictError, match="send this one with a new key"):
        answer_once(db, KeyedRequest.of("key", {"a": 2}, DAY_S), act, render)
