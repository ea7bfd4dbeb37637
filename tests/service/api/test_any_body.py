# Whatever is posted, the answer is a job that can be read back or a problem that leaves no row; never a 500.
from __future__ import annotations

import copy
import json
import os
from typing import Any

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.db.session import Database
from service.planning.plan import make_plan
from service.spec.job import JobSpec
from tests.service.api.conftest import PROBLEM, count_rows

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))

WHOLE: dict[str, Any] = JobSpec.model_validate(
    {
        "dataset": {"name": "wine"},
        "model": {"name": "mlp", "hidden": [8, 4]},
        "search_space": {
            "preset": "paper",
            "overrides": {"lr": {"low": 0.001, "high": 0.1, "log": True}, "structure": ["full", "low_rank"], "rank": 2},
        },
    }
).to_json()

text = st.text(st.characters(exclude_categories=[]), max_size=20)
words = st.sampled_from(
    [
        *JobSpec.model_fields,
        "low",
        "high",
        "log",
        "name",
        "steps",
        "range",
        "choices",
        "value",
        "mlp",
        "autoencoder",
        "rank",
        "lr",
        "beta1",
        "strategy",
        "placement",
        "learner",
        "diagonal",
        "frozen",
        "digits",
        "entrypoint",
        "config",
        "pinn",
        "equation",
        "default",
        "adamw",
    ]
)
numbers = st.one_of(
    st.integers(-2, 20),
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**53, 2**63, 10**400, -0.0, 1e-320, 1e308]),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, text, words)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | text, inner, max_size=4), max_leaves=12
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@st.composite
def nearly_specs(draw: st.DrawFn) -> Any:
    """A whole spec with up to three of its parts replaced, removed or added to."""
    body = copy.deepcopy(WHOLE)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(places(body)))
        if not path:
            continue
        node = body
        for key in path[:-1]:
            node = node[key]
        kind = draw(st.sampled_from(["replace", "remove", "add"]))
        if kind == "remove":
            del node[path[-1]]
        elif kind == "add" and isinstance(node, dict):
            node[draw(words | text)] = draw(values)
        else:
            node[path[-1]] = draw(values)
    return body


@given(body=st.one_of(nearly_specs(), nearly_specs(), nearly_specs(), values))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_json_is_a_job_or_a_problem(shared_client: TestClient, shared_db: Database, body: Any) -> None:
    before = count_rows(shared_db)
    response = shared_client.post("/v1/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"})
    if response.status_code == 202:
        job = shared_client.get(response.headers["location"]).json()
        arms = [arm.name for arm in make_plan(JobSpec.model_validate(job["spec"])).arms]
        assert arms == ["warpadam", "adamw", "adamw_default"]
        return
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == PROBLEM
    assert response.json()["errors"]
    assert all(error["field"] and error["message"] for error in response.json()["errors"])
    assert count_rows(shared_db) == before


@given(body=st.binary(max_size=200) | text.map(lambda value: value.encode("utf-8", "replace")))
@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_problem(shared_client: TestClient, body: bytes) -> None:
    response = shared_client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text
    assert response.headers["content-type"] == PROBLEM
