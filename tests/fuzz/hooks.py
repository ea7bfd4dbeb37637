# Runs inside schemathesis, which knows no name of a dataset and no job. Of the specs, uploads and ids that it makes,
# these hooks leave half as they are; the other half becomes something that the service accepts. They do not see what
# links fill in. The jobs are real: where none is in the state that a request needs, these hooks bring one there.
from __future__ import annotations

import itertools
import json
import os
import time
import zlib
from collections.abc import Callable
from typing import Any

import requests
import schemathesis

SPEC = json.loads(os.environ["FUZZ_SPEC"])
URL = os.environ["FUZZ_URL"]
ADMIN = requests.Session()
ADMIN.headers["Authorization"] = f"Bearer {os.environ['FUZZ_KEY']}"

DRY_RUNS = 8
"""One of so many valid specs may be a dry run, which takes seconds; the others are submitted."""

NEEDED = {"cancel": "queued", "stop": "queued", "pause": "queued", "resume": "paused", "retry": "cancelled"}
"""Request -> the state of a job that it changes. Those that only read, and `extend`, need one that has succeeded."""

WAYS = {"queued": (), "paused": ("pause",), "cancelled": ("cancel",)}
"""State -> the requests that bring a new job there, if no worker is faster."""

_turn = itertools.count()


def is_chosen(value: object) -> bool:
    """Return the same for the same value, and true for half of all values."""
    return zlib.crc32(repr(value).encode("utf-8", "replace")) % 2 == 0


def ask(method: str, path: str, **arguments: Any) -> Any:
    """Send a request with a key of an admin; return its answer, None if it was refused."""
    answer = ADMIN.request(method, f"{URL}{path}", timeout=60, **arguments)
    return answer.json() if answer.ok else None


def one_of(found: list[Any]) -> Any:
    """Return another one of some at each call."""
    return found[next(_turn) % len(found)]


def job_in(state: str) -> str:
    """Return the id of a job in a state, if one can be had."""
    found = ask("GET", "/v1/jobs", params={"state": state, "limit": 20})["items"]
    if found:
        return str(one_of(found)["id"])
    job_id = str(ask("POST", "/v1/jobs", json=SPEC)["id"])
    for verb in WAYS.get(state, ()):
        ask("POST", f"/v1/jobs/{job_id}/{verb}")
    return job_id


def table() -> bytes:
    """Return a small table: every second time one that the service does not have yet."""
    return b"x,y\n" + b"1,2\n" * 40 + f"1,{one_of([0, time.time()])}\n".encode()


def dataset() -> str:
    """Return the id of an uploaded dataset."""
    found = ask("GET", "/v1/datasets")["items"]
    upload = one_of(found) if found else ask("POST", "/v1/datasets?filename=table.csv", data=table())
    return str(upload["id"])


def map_case(context: Any, case: Any) -> Any:
    """Take a body that is valid: a spec, with some fields of what was made; a small table; or one more seed.

    A request that should be refused is left as it is.
    """
    body = case.body
    if case.meta is None or case.meta.generation.mode.is_negative or not is_chosen(body):
        return case
    match context.operation.label:
        case "POST /v1/jobs" if isinstance(body, dict):
            made = {name: body[name] for name in body.keys() & {"name", "seed", "tags"} if is_chosen(body[name])}
            case.body = SPEC | made
            if next(_turn) % DRY_RUNS:
                case.query = {name: value for name, value in (case.query or {}).items() if name != "dry_run"}
        case "POST /v1/datasets":
            case.body = table()
        case "POST /v1/jobs/{job_id}/extend":
            case.body = {"seeds": 1}
    return case


def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Take a job in a state that the request is for, a dataset that exists, and the first trial."""
    if not isinstance(path_parameters, dict):
        return path_parameters
    state = NEEDED.get(context.operation.path.rpartition("/")[2], "succeeded")
    if context.operation.method.upper() == "DELETE":
        state = "cancelled"
    known: dict[str, Callable[[], Any]] = {
        "job_id": lambda: job_in(state),
        "dataset_id": dataset,
        "number": lambda: 0,
    }
    return {name: known[name]() if is_chosen(value) else value for name, value in path_parameters.items()}


def map_query(context: Any, query: Any) -> Any:
    """Compare jobs that exist, and give an upload a name with an ending."""
    if not isinstance(query, dict) or not is_chosen(query):
        return query
    match context.operation.label:
        case "GET /v1/jobs/compare":
            return query | {"ids": [job_in("succeeded"), job_in("succeeded")]}
        case "POST /v1/datasets":
            return {"filename": "table.csv"}
    return query


for function in (map_case, map_path_parameters, map_query):
    schemathesis.hook(function)
