"""Fixtures and helpers for tests of the API, which runs in this process.

``client`` runs on both databases. ``shared_client`` uses one SQLite file for the whole session; take it where the
database does not matter. Trials and results are written through the ledger, as a worker writes them.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import inspect, text

from service.api.app import create_app
from service.db.models import AuditLine, Trial
from service.db.session import Database, create_schema
from service.ledger.runs import RunLog, claim
from service.planning.arms import WARPADAM
from service.planning.objective import Objective
from service.planning.plan import make_plan
from service.recommend.recommendation import Finalist, recommend
from service.result.job_result import JobResult
from service.settings import Settings
from service.states import TrialState
from service.training.run import CurvePoint, Ended
from tests.conftest import SpecMaker
from tests.service.results import NO_FINDINGS

PROBLEM = "application/problem+json"

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests that look at rows but behave the same on every database."""


@pytest.fixture
def client(settings: Settings, db: Database) -> Iterator[TestClient]:
    """The API on the test's own database."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="session")
def shared_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of the shared API."""
    folder = tmp_path_factory.mktemp("shared-api")
    settings = Settings(
        database_url=f"sqlite:///{folder}/warptune.db",
        artifacts_url=str(folder / "artifacts"),
        allowed_hosts="testserver",
    )
    create_schema(settings.database_url)
    return settings


@pytest.fixture(scope="session")
def shared_client(shared_settings: Settings) -> Iterator[TestClient]:
    """One API for all tests that ignore the rows of other tests."""
    with TestClient(create_app(shared_settings), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="session")
def shared_db(shared_settings: Settings) -> Iterator[Database]:
    """The database of the shared API."""
    database = Database(shared_settings.database_url)
    yield database
    database.close()


def count_rows(db: Database) -> dict[str, int]:
    """Return the number of rows of every table but the audit log, Optuna's included."""
    names = set(inspect(db.engine).get_table_names()) - {AuditLine.__tablename__}
    counts = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in names)
    with db.read() as session:
        return {name: count for name, count in session.execute(text(counts))}  # noqa: C416 - mypy does not see rows as tuples


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """Check that a response is a problem document and return the document."""
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM), response.text
    document: dict[str, Any] = response.json()
    assert set(document) == {"type", "title", "status", "detail", "code", "errors", "request_id"}
    assert document["request_id"] == response.headers["x-request-id"]
    assert (document["status"], document["code"]) == (status, code)
    assert document["detail"]
    return document


def pages(client: TestClient, path: str, limit: int, **query: Any) -> list[list[dict[str, Any]]]:
    """Return every page of a list."""
    found: list[list[dict[str, Any]]] = []
    cursor: int | None = None
    while True:
        wanted = {"limit": limit, **query} | ({} if cursor is None else {"cursor": cursor})
        answer = client.get(path, params=wanted).json()
        found.append(answer["items"])
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


class Missing(enum.Enum):
    """Marks a field that :func:`put` removes."""

    FIELD = "the field is left out"


MISSING = Missing.FIELD


def put(body: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of ``body`` with ``value`` at a dotted path. MISSING removes the field."""
    first, _, rest = path.partition(".")
    if rest:
        return body | {first: put(body.get(first, {}), rest, value)}
    return {name: old for name, old in body.items() if name != first} if value is MISSING else body | {first: value}


def refused(client: TestClient, db: Database, body: Any) -> list[dict[str, Any]]:
    """Post a body, check that it is refused and no row was written, and return the errors."""
    before = count_rows(db)
    response = client.post("/v1/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"})
    problem = assert_problem(response, 422, "invalid_spec")
    assert count_rows(db) == before
    errors: list[dict[str, Any]] = problem["errors"]
    assert all(error["field"] in problem["detail"] for error in errors)
    return errors


Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def submit(client: TestClient, spec: SpecMaker) -> Submit:
    """Posts a small job and returns the response; keyword arguments replace fields of the spec."""

    def post(**parts: Any) -> dict[str, Any]:
        response = client.post("/v1/jobs", json=spec(**parts))
        assert response.status_code == 202, response.text
        answer: dict[str, Any] = response.json()
        return answer

    return post


def claim_job(db: Database, lease_s: float = 60.0) -> RunLog:
    """Take the oldest free job, as a worker does."""
    lease = claim(db, "a worker of the tests", lease_s)
    assert lease is not None
    return lease


def search(log: RunLog, trials: int = 2, points: Sequence[int] = ()) -> list[Trial]:
    """Write a finished search with ``trials`` trials in each arm that is tuned; return the best trial of each arm."""
    plan = make_plan(log.spec)
    best = []
    for arm in plan.arms:
        log.start_arm(arm.name)
        starts = arm.space.first_trials or ({},)
        for index in range(min(trials, plan.trials(arm))):
            trial = log.add_trial(arm.name, starts[index % len(starts)])
            log.start_trial(trial.id)
            for step in points:
                log.add_points([(trial.id, CurvePoint(step, 1.0 / step, 0.5 + index, step * 0.01))])
            log.finish_trial(trial.id, Ended(TrialState.COMPLETE, 0.5 + index, None, 0.1), 0.2 * (index + 1))
        log.finish_arm(arm.name, 0.2 * trials, "trials_per_arm")
        best.append(log.trials(arm.name)[0])
    return best


def succeed(log: RunLog, gain: float = 0.25, *, varies: bool = False) -> None:
    """Write a finished job. On every fresh seed, warpadam's loss is ``gain`` below the baseline's.

    If it ``varies``, it is as much above on every fourth seed, so nothing can be concluded yet.
    """
    finalists = search(log)
    log.set_data_hash("0" * 64)
    log.verify()
    runs = log.plan_confirm_runs("confirm", finalists, range(100, 100 + log.spec.confirm.seeds))
    for run in runs:
        sign = -1.0 if varies and run.seed % 4 == 0 else 1.0
        loss = 1.0 + run.seed % 8 / 64 - (sign * gain if run.arm.startswith(WARPADAM) else 0.0)
        log.finish_confirm_run(
            run.id, Ended(TrialState.COMPLETE, loss, loss, 0.1), [CurvePoint(10, loss, loss, 0.1, loss)]
        )
    picked = [Finalist(trial, trial.value or 0.0) for trial in finalists]
    objective = Objective(metric="val_loss", target=None, steps=10, max_seconds=600.0)
    result = recommend(make_plan(log.spec), picked, log.confirm_runs("confirm"), objective, log.looks())
    others: dict[str, Any] = {"findings": NO_FINDINGS, "learned_p": None, "warm_start": None, "made_with": {}}
    log.succeed(JobResult(**vars(result), job_id=log.job_id, **others))
