# Bodies that are no spec at all, or that a spec has no use for: unreadable, deep, long, half a character.
from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient

from service.api.problems import MAX_ERRORS
from service.db.session import Database
from service.errors import MAX_VALUE_LENGTH
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, count_rows, put, refused


@pytest.mark.parametrize(
    ("body", "value", "expected"),
    [
        ("", None, "is required"),
        ("null", None, "a JSON object"),
        ("[]", [], "a JSON object"),
        ('"job"', "job", "a JSON object"),
        ("7", 7, "a JSON object"),
        ("{", "", "valid JSON: Expecting property name enclosed in double quotes at character 1"),
        ('{"seed": 1,, }', ", }", "valid JSON: Expecting property name"),
        ("{'seed': 1}", "'seed': 1}", "valid JSON: Expecting property name"),
        ('{"seed": 01}', "1}", "valid JSON: Expecting ',' delimiter at character 10"),
    ],
)
def test_body_that_is_no_object_is_refused(
    shared_client: TestClient, shared_db: Database, body: str, value: object, expected: str
) -> None:
    before = count_rows(shared_db)
    response = shared_client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    (error,) = assert_problem(response, 422, "invalid_spec")["errors"]
    assert (error["field"], error["value"]) == ("body", value)
    assert expected in error["message"]
    assert (error["code"] == "invalid_json") == ("valid JSON" in expected)
    assert count_rows(shared_db) == before


@pytest.mark.parametrize(
    "body",
    [b"\xff\xfe\x00", b'{"name": "\xe9"}', b"[" * 5000 + b"]" * 5000, b'{"a":' * 5000, b"9" * 5000],
    ids=["utf-16", "latin-1", "deep list", "deep object", "long number"],
)
def test_body_that_cannot_be_read_is_refused(shared_client: TestClient, shared_db: Database, body: bytes) -> None:
    before = count_rows(shared_db)
    response = shared_client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    (error,) = assert_problem(response, 400, "bad_request")["errors"]
    assert error["field"] == "body"
    assert error["message"].startswith("must be readable JSON: ")
    assert count_rows(shared_db) == before


@pytest.mark.parametrize("name", ["lr", "max_dim", "p_decay"])
@pytest.mark.parametrize("form", ["{}", "[{}]", '{{"low": 0.1, "high": {}}}'], ids=["value", "list", "range"])
def test_a_number_too_large_for_a_float_is_an_error_of_its_field(
    shared_client: TestClient, spec: SpecMaker, name: str, form: str
) -> None:
    override = json.loads(form.format(10**400))
    answer = shared_client.post("/v1/jobs", json=spec(search_space={"overrides": {name: override}}))
    errors = assert_problem(answer, 422, "invalid_spec")["errors"]
    assert all(error["field"].startswith(f"search_space.overrides.{name}") for error in errors)
    assert any("number" in error["message"] for error in errors)


def test_a_body_that_is_not_utf8_has_a_documented_answer_on_every_route_that_takes_one(
    shared_client: TestClient,
) -> None:
    routes = [
        (path, method, operation["responses"])
        for path, operations in shared_client.get("/openapi.json").json()["paths"].items()
        for method, operation in operations.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    ]
    assert len(routes) >= 2
    for path, method, documented in routes:
        for body in (b'{"name": "\xe9"}', b"\xff\xfe\x00", b"\x80"):
            kind = {"Content-Type": "application/json"}
            answer = shared_client.request(method, path.replace("{job_id}", "job-0"), content=body, headers=kind)
            assert_problem(answer, 400, "bad_request")
            assert "400" in documented, path


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/yaml", ""])
def test_body_of_another_type_is_refused(shared_client: TestClient, spec: SpecMaker, content_type: str) -> None:
    response = shared_client.post("/v1/jobs", content=json.dumps(spec()), headers={"Content-Type": content_type})
    (error,) = assert_problem(response, 422, "invalid_spec")["errors"]
    assert error["field"] == "body"
    assert "Content-Type: application/json" in error["hint"]


@pytest.mark.parametrize("depth", range(500, 1000, 20))
def test_value_that_is_nested_deeply_is_refused(shared_client: TestClient, spec: SpecMaker, depth: int) -> None:
    body = json.dumps(spec(seed="?")).replace('"?"', "[" * depth + "]" * depth)
    response = shared_client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text


@pytest.mark.parametrize(
    "place", ["name", "dataset.name", "search_space.preset", "search_space.overrides.structure", "unknown"]
)
def test_half_a_surrogate_pair_is_refused(
    shared_client: TestClient, shared_db: Database, spec: SpecMaker, place: str
) -> None:
    errors = refused(shared_client, shared_db, put(spec(), place, "\ud800"))
    assert [error["field"] for error in errors] == [place]
    assert errors[0]["value"] == "?"


def test_name_with_half_a_surrogate_pair_is_refused(
    shared_client: TestClient, shared_db: Database, spec: SpecMaker
) -> None:
    errors = refused(shared_client, shared_db, spec(search_space={"overrides": {"\ud800": 1}}))
    assert [error["field"] for error in errors] == ["search_space.overrides"]
    assert len(refused(shared_client, shared_db, spec() | {"\ud800": 1})) == 1


def test_only_the_first_of_very_many_errors_are_named(shared_client: TestClient, spec: SpecMaker) -> None:
    body = spec() | {f"field{index}": index for index in range(50_000)}
    problem = assert_problem(shared_client.post("/v1/jobs", json=body), 422, "invalid_spec")
    assert [error["field"] for error in problem["errors"]] == [f"field{index}" for index in range(MAX_ERRORS)]
    assert problem["detail"].endswith(f"; and {50_000 - MAX_ERRORS} more")


@pytest.mark.parametrize("path", ["name", "dataset.name", "baselines", "x" * 500_000, "search_space.overrides.lr"])
def test_long_names_and_values_are_cut(shared_client: TestClient, spec: SpecMaker, path: str) -> None:
    response = shared_client.post("/v1/jobs", json=put(spec(), path, "y" * 400_000))
    (error,) = assert_problem(response, 422, "invalid_spec")["errors"]
    assert len(error["value"]) <= MAX_VALUE_LENGTH + 3
    assert error["value"].endswith("...")
    assert len(response.content) < 3000
