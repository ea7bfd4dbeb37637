# The document says what the API does: every operation, every problem, every default.
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from service.api.access import is_open
from service.export.files import ExportFormat
from service.spec.base import SpecModel
from service.spec.job import JobSpec, RangeOverride
from service.spec.models import MODELS
from tests.service.api.conftest import PROBLEM

OPERATIONS = {
    ("post", "/v1/jobs"): {200, 202, 400, 401, 403, 409, 413, 422, 429, 500, 503, 507},
    ("get", "/v1/jobs"): {200, 401, 403, 422, 429, 500},
    ("get", "/v1/audit"): {200, 401, 403, 422, 429, 500},
    ("get", "/v1/jobs/compare"): {200, 401, 403, 404, 422, 429, 500},
    ("get", "/v1/jobs/{job_id}"): {200, 401, 403, 404, 422, 429, 500},
    ("delete", "/v1/jobs/{job_id}"): {204, 401, 403, 404, 409, 422, 429, 500},
    ("post", "/v1/jobs/{job_id}/stop"): {202, 401, 403, 404, 409, 422, 429, 500},
    ("post", "/v1/jobs/{job_id}/pause"): {202, 401, 403, 404, 409, 422, 429, 500},
    ("post", "/v1/jobs/{job_id}/resume"): {202, 401, 403, 404, 409, 422, 429, 500},
    ("post", "/v1/jobs/{job_id}/cancel"): {202, 401, 403, 404, 409, 422, 429, 500},
    ("post", "/v1/jobs/{job_id}/extend"): {202, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 507},
    ("post", "/v1/jobs/{job_id}/retry"): {202, 401, 403, 404, 409, 422, 429, 500, 503, 507},
    ("get", "/v1/jobs/{job_id}/events"): {200, 204, 401, 403, 404, 422, 429, 500},
    ("get", "/v1/jobs/{job_id}/trials"): {200, 401, 403, 404, 409, 422, 429, 500},
    ("get", "/v1/jobs/{job_id}/trials/{number}"): {200, 401, 403, 404, 409, 422, 429, 500},
    ("get", "/v1/jobs/{job_id}/recommendation"): {200, 401, 403, 404, 409, 422, 429, 500},
    ("get", "/v1/jobs/{job_id}/export"): {200, 401, 403, 404, 409, 422, 429, 500},
    ("get", "/v1/jobs/{job_id}/report"): {200, 401, 403, 404, 409, 422, 429, 500},
    ("post", "/v1/datasets"): {200, 201, 401, 403, 413, 422, 429, 500, 503, 507},
    ("get", "/v1/datasets"): {200, 401, 403, 422, 429, 500},
    ("get", "/v1/datasets/{dataset_id}"): {200, 401, 403, 404, 409, 422, 429, 500},
    ("delete", "/v1/datasets/{dataset_id}"): {204, 401, 403, 404, 409, 422, 429, 500},
    ("get", "/v1/models"): {200, 401, 403, 429, 500},
    ("get", "/v1/catalog"): {200, 401, 403, 429, 500},
    ("get", "/healthz"): {200, 403, 500},
    ("get", "/readyz"): {200, 403, 500, 503},
    ("get", "/metrics"): {200, 401, 403, 500, 503},
}


@pytest.fixture(scope="module")
def document(shared_client: TestClient) -> dict[str, Any]:
    """The document of the API."""
    answer: dict[str, Any] = shared_client.get("/openapi.json").json()
    return answer


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): op for path, methods in document["paths"].items() for method, op in methods.items()}


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(inner)


def test_document_is_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPI.model_validate(document)
    names = [op["operationId"] for op in operations(document).values()]
    assert len(names) == len(set(names))
    assert {"submit_job", "get_job", "list_trials", "upload_dataset", "get_recommendation"} <= set(names)


def test_every_answer_with_a_body_has_a_schema(document: dict[str, Any]) -> None:
    for key, op in operations(document).items():
        for status, answer in op["responses"].items():
            assert all(content.get("schema") for content in answer.get("content", {}).values()), (key, status)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = {node["$ref"] for node in nodes(document) if isinstance(node.get("$ref"), str)}
    assert "#/components/schemas/Problem" in references
    for reference in references:
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_schema_and_every_list_of_words_has_one_name(document: dict[str, Any]) -> None:
    """Programs that are generated from the document get a class for each."""
    schemas = document["components"]["schemas"]
    assert not [name for name in schemas if "__" in name], "two classes have the same name"
    words = [tuple(node["enum"]) for node in nodes(document) if isinstance(node.get("enum"), list)]
    assert not {found for found in words if words.count(found) > 1}


def test_every_operation_is_here_with_all_its_answers(document: dict[str, Any]) -> None:
    found = {key: {int(status) for status in op["responses"]} for key, op in operations(document).items()}
    assert found == OPERATIONS


def test_the_document_says_that_a_key_may_be_needed(document: dict[str, Any]) -> None:
    assert document["security"] == [{"ApiKey": []}, {}]
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    without = {path for (_, path), op in operations(document).items() if "401" not in op["responses"]}
    assert without == {path for (_, path) in OPERATIONS if is_open(path)}


def test_every_operation_is_explained(document: dict[str, Any]) -> None:
    for key, op in operations(document).items():
        assert op["summary"], key
        assert op["description"].endswith("."), key
        assert op["tags"], key
        for parameter in op.get("parameters", []):
            assert parameter.get("description") or parameter["schema"].get("title"), (key, parameter)


def test_every_problem_is_a_problem_document(document: dict[str, Any]) -> None:
    for key, op in operations(document).items():
        for status, response in op["responses"].items():
            if int(status) >= 400:
                schema = response["content"][PROBLEM]["schema"]
                assert (list(response["content"]), schema["$ref"]) == ([PROBLEM], "#/components/schemas/Problem"), key
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert set(document["components"]["schemas"]["Problem"]["properties"]) == {
        "type",
        "title",
        "status",
        "detail",
        "code",
        "errors",
        "request_id",
    }


def test_every_field_of_a_recommendation_is_described(document: dict[str, Any]) -> None:
    schemas, found = document["components"]["schemas"], {"JobResult"}
    waiting = ["JobResult"]
    while waiting:
        schema = schemas[waiting.pop()]
        for name, field in schema.get("properties", {}).items():
            assert field.get("description"), (schema["title"], name)
        used = {node["$ref"].rpartition("/")[2] for node in nodes(schema) if "$ref" in node}
        waiting += used - found
        found |= used
    assert {"Verdict", "Pair", "ArmResult", "Comparison", "TuningPoint", "BreakEven", "LearnedP"} <= found


def spec_models() -> list[type[BaseModel]]:
    fields = [field.annotation for field in JobSpec.model_fields.values()]
    inner = [kind for kind in fields if isinstance(kind, type) and issubclass(kind, SpecModel)]
    return [JobSpec, *MODELS.values(), RangeOverride, *inner]


@pytest.mark.parametrize("model", spec_models(), ids=lambda model: model.__name__)
def test_every_default_of_the_spec_is_visible(document: dict[str, Any], model: type[BaseModel]) -> None:
    schema = document["components"]["schemas"][model.__name__]
    assert schema["additionalProperties"] is False
    required = []
    for name, field in model.model_fields.items():
        if field.default is PydanticUndefined:
            required.append(name)
            continue
        default = field.default
        if isinstance(default, BaseModel):
            default = default.model_dump(mode="json", exclude_none=True)  # the document has no nulls
        if schema["properties"][name].get("const") != default:
            assert schema["properties"][name]["default"] == default, name
    assert schema.get("required", []) == required


def test_examples_of_the_document_are_accepted(shared_client: TestClient, document: dict[str, Any]) -> None:
    examples = document["components"]["schemas"]["JobSpec"]["examples"]
    assert examples
    for example in examples:
        response = shared_client.post("/v1/jobs", json=example)
        assert response.status_code == 202, response.text


def test_example_of_a_job_id_is_what_an_id_looks_like(document: dict[str, Any]) -> None:
    (parameter,) = document["paths"]["/v1/jobs/{job_id}"]["get"]["parameters"]
    assert all(re.fullmatch(r"job-[0-9a-f]{16}", example) for example in parameter["schema"]["examples"])


def test_the_page_of_the_document_needs_nothing_from_outside(shared_client: TestClient) -> None:
    page = shared_client.get("/docs").text
    assert "warptune" in page
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert path.startswith("/")
        assert shared_client.get(path).status_code == 200
    assert shared_client.get("/redoc").url.path == "/docs"


def test_an_export_is_an_object_as_json_and_yaml_and_a_file_otherwise(document: dict[str, Any]) -> None:
    content = operations(document)["get", "/v1/jobs/{job_id}/export"]["responses"]["200"]["content"]
    types = {media_type: kind["schema"]["type"] for media_type, kind in content.items()}
    assert (types.pop("application/json"), types.pop("application/yaml")) == ("object", "object")
    assert len(types) == len(ExportFormat) - 2
    assert set(types.values()) == {"string"}
