# Runs inside schemathesis, which knows no name of a dataset and no job. Of the specs, uploads and ids that it makes,
# these hooks leave half as they are; the other half becomes something that the service accepts.
from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis

SPEC = json.loads(os.environ["FUZZ_SPEC"])
JOB = os.environ["FUZZ_JOB"]
DATASET = os.environ["FUZZ_DATASET"]


def is_chosen(value: object) -> bool:
    """Return the same for the same value, and true for half of all values."""
    return zlib.crc32(repr(value).encode("utf-8", "replace")) % 2 == 0


def map_body(context: Any, body: Any) -> Any:
    """Take a spec that is valid, with some fields of what was made; and a small table as an upload."""
    if not is_chosen(body):
        return body
    match context.operation.label:
        case "POST /v1/jobs" if isinstance(body, dict):
            return SPEC | {name: body[name] for name in body.keys() & {"name", "seed", "tags"} if is_chosen(body[name])}
        case "POST /v1/datasets":
            return b"x,y\n" + b"1,2\n" * 40
    return body


def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Take a job that has succeeded and a dataset that exists, where the request only reads them."""
    if context.operation.method.upper() != "GET" or not isinstance(path_parameters, dict):
        return path_parameters
    known = {"job_id": JOB, "dataset_id": DATASET, "number": 0}
    return {name: known[name] if is_chosen(value) else value for name, value in path_parameters.items()}


def map_query(context: Any, query: Any) -> Any:
    """Compare a job that exists, and give an upload a name with an ending."""
    if not isinstance(query, dict) or not is_chosen(query):
        return query
    match context.operation.label:
        case "GET /v1/jobs/compare":
            return query | {"ids": f"{JOB},{JOB}"}
        case "POST /v1/datasets":
            return query | {"filename": "table.csv"}
    return query


for function in (map_body, map_path_parameters, map_query):
    schemathesis.hook(function)
