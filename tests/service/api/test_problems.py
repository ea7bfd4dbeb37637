# Every error is a problem document, whoever noticed it: the router, the validation, the ledger, the database or nobody.
from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.api.observed import Observed
from service.api.problems import Problem, install, problem
from service.db.session import Database
from service.errors import FieldError, LeaseLostError, ServiceError
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, sqlite_only


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/job", "/v1/jobs/", "/v1/jobs/a/b", "/v2/jobs", "/api", "/größe", "//v1/jobs"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_path_is_not_found(shared_client: TestClient, method: str, path: str) -> None:
    assert "see /docs" in assert_problem(shared_client.request(method, path), 404, "not_found")["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", "GET, POST"),
        ("DELETE", "/v1/jobs", "GET, POST"),
        ("PATCH", "/v1/jobs/job-0", "DELETE, GET"),
        ("POST", "/v1/jobs/job-0", "DELETE, GET"),
        ("GET", "/v1/jobs/job-0/cancel", "POST"),
        ("POST", "/v1/jobs/job-0/trials", "GET"),
        ("POST", "/v1/catalog", "GET"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_method_that_a_path_does_not_have_is_not_allowed(
    shared_client: TestClient, method: str, path: str, allowed: str
) -> None:
    response = shared_client.request(method, path)
    assert f"{path} does not support {method}" in assert_problem(response, 405, "method_not_allowed")["detail"]
    assert response.headers["allow"] == allowed


def test_document_is_what_the_schema_says(shared_client: TestClient, spec: SpecMaker) -> None:
    response = shared_client.post("/v1/jobs", json=spec(seed=-1, baselines=[]))
    parsed = Problem.model_validate(response.json())
    assert parsed.model_dump() == response.json()
    assert (parsed.type, parsed.title) == ("about:blank", "Unprocessable Entity")
    assert [error.field for error in parsed.errors] == ["baselines", "seed"]


def test_detail_says_everything_in_one_line(shared_client: TestClient, spec: SpecMaker) -> None:
    document = shared_client.post("/v1/jobs", json=spec(name="", model={"name": "mpl"})).json()
    assert document["detail"] == (
        "name: must have at least 1 character (got ''); "
        "model.name: must be one of mlp, autoencoder, convnet, resnet, transformer, pinn, entrypoint, loop "
        "(got 'mpl'). Did you mean 'mlp'?"
    )


@pytest.mark.parametrize(
    "value", [float("nan"), float("-inf"), "\udfff", {"\ud800": [float("inf")]}, object(), b"\xff"]
)
def test_any_value_can_be_sent_back(value: object) -> None:
    response = problem(422, "invalid_spec", "no", [FieldError("a\ud800", value, "must be another")])
    document = Problem.model_validate_json(bytes(response.body))
    assert document.errors[0].field == "a?"


def test_value_that_is_nested_too_deeply_is_not_sent_back() -> None:
    value: list[object] = []
    for _ in range(10_000):
        value = [value]
    response = problem(
        422, "invalid_spec", str(FieldError("a", value, "must be less")), [FieldError("a", value, "must be less")]
    )
    assert Problem.model_validate_json(bytes(response.body)).errors[0].value == "a value that is nested too deeply"


@pytest.fixture
def broken_client(client: TestClient) -> TestClient:
    """An application whose routes fail in ways that ours should not."""
    app = FastAPI()
    install(app)
    app.add_middleware(Observed, metrics=client.app.state.metrics)  # type: ignore[attr-defined]

    @app.get("/bug")
    def bug() -> None:
        raise KeyError("secret")

    @app.get("/lease")
    def lease() -> None:
        raise LeaseLostError("job-1 is no longer ours")

    @app.get("/other")
    def other() -> None:
        raise ServiceError("no status")

    return TestClient(app, raise_server_exceptions=False)


@sqlite_only
def test_bug_is_a_problem_that_gives_nothing_away(broken_client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    response = broken_client.get("/bug")
    assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    (record,) = [record for record in caplog.records if record.name == "service.api.problems"]
    assert (record.levelno, record.getMessage(), record.exc_info is not None) == (
        logging.ERROR,
        "unhandled error",
        True,
    )


@sqlite_only
@pytest.mark.parametrize(("path", "code"), [("/lease", "lease_lost"), ("/other", "service_error")])
def test_error_of_the_service_without_a_status_is_500(broken_client: TestClient, path: str, code: str) -> None:
    assert_problem(broken_client.get(path), 500, code)


@sqlite_only
def test_database_that_is_away_is_503(
    client: TestClient, spec: SpecMaker, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with db.write() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO gone"))
    for response in (client.get("/v1/jobs"), client.get("/v1/jobs/job-0"), client.post("/v1/jobs", json=spec())):
        document = assert_problem(response, 503, "database_unavailable")
        assert "SELECT" not in response.text
        assert "INSERT" not in response.text
        assert "log of the service" in document["detail"]
    assert "the database cannot be used" in caplog.messages
    with db.write() as session:
        session.execute(text("ALTER TABLE gone RENAME TO jobs"))
    assert client.get("/v1/jobs").status_code == 200


@sqlite_only
def test_postgresql_that_cannot_be_reached_is_503(tmp_path: Path, settings: Settings) -> None:
    from service.api.app import create_app

    app = create_app(settings)
    app.state.database = Database("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with TestClient(app) as opened:
        assert_problem(opened.get("/v1/jobs"), 503, "database_unavailable")
