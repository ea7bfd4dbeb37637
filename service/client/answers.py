"""What the API answers, as a type checker sees it. The fields are those of api/views.py, which says what they mean.

They are dictionaries, so that a client shows whatever it got, also from a service of another version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypedDict

EXPORTS: Final = {".py": "python", ".zip": "zip", ".json": "json", ".yaml": "yaml", ".toml": "toml"}
"""Ending of a file's name -> form of the export."""


class BestTrial(TypedDict):
    """The completed trial of an arm that is best so far."""

    number: int
    value: float
    params: dict[str, Any]


class Arm(TypedDict):
    """How far an arm is. ``trials`` counts its trials by state."""

    name: str
    state: str
    trials: dict[str, int]
    trials_cap: int
    seconds_used: float
    seconds_cap: float
    best: BestTrial | None
    study: str


class Confirm(TypedDict):
    """How far the confirmation runs are."""

    done: int
    planned: int


class JobSummary(TypedDict):
    """A job in a list. Times are ISO 8601 texts."""

    id: str
    owner: str
    name: str
    dataset: str
    tags: list[str]
    state: str
    cause: str | None
    priority: int
    queue_position: int | None
    needs_module: str | None
    cancel_requested: bool
    pause_requested: bool
    stop_requested: bool
    created_at: str
    started_at: str | None
    finished_at: str | None


class Job(JobSummary):
    """A job with its arms."""

    spec: dict[str, Any]
    data_sha256: str | None
    arms: list[Arm]
    confirm: Confirm
    links: dict[str, str]


def place_in_queue(job: Mapping[str, Any]) -> str:
    """Return the place of a waiting job as an addition to its state; nothing for another job.

    >>> place_in_queue({"state": "queued", "queue_position": 3})
    ', number 3 in the queue'
    >>> place_in_queue({"state": "queued", "queue_position": 3, "needs_module": "train_0b1c"})
    ', number 3 in the queue, needs a worker that allows train_0b1c'
    """
    place, module = job.get("queue_position"), job.get("needs_module")
    needs = f", needs a worker that allows {module}" if module else ""
    return f", number {place} in the queue{needs}" if place else ""


class Trial(TypedDict):
    """A trial. ``params`` is what the search chose, ``config`` what the optimizer got, ``value`` the cost."""

    number: int
    arm: str
    state: str
    params: dict[str, Any]
    config: dict[str, Any]
    value: float | None
    last_step: int
    seconds: float
    attempts: int
    cause: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class TrialDetail(Trial):
    """A trial with the points of its learning curve."""

    curve: list[dict[str, float]]


class Event(TypedDict):
    """Something that happened to a job."""

    id: int
    at: str
    kind: str
    data: dict[str, Any]


class ArmEstimate(TypedDict):
    """What an arm would do and cost."""

    name: str
    role: str
    optimizer: str
    parameters: list[str]
    trials: int
    trials_in_time: int
    confirm_runs: int
    seconds_a_run: float
    search_seconds: float
    seconds: float
    p_bytes: int


class Estimate(TypedDict):
    """What a job would do and cost."""

    arms: list[ArmEstimate]
    trials: int
    trials_in_time: int
    confirm_runs: int
    seconds: float
    p_bytes: int
    steps: int
    parameters: int
    note: str
    task: str
    columns: list[dict[str, Any]]
    warnings: list[str]
    similar: dict[str, Any] | None


class AuditLine(TypedDict):
    """A line of the audit log."""

    id: int
    at: str
    who: str
    project: str
    address: str
    operation: str
    method: str
    target: str
    status: int | None
    request_id: str | None


class DatasetSummary(TypedDict):
    """A dataset in a list."""

    id: str
    owner: str
    name: str
    format: str
    sha256: str
    size_bytes: int
    rows: int
    created_at: str


class Dataset(DatasetSummary):
    """A dataset with its columns or shape."""

    layout: str
    columns: list[dict[str, Any]]
    shape: list[int]
    characters: int
    task: str | None
    reading: dict[str, Any]
    warnings: list[str]
    model: dict[str, Any]
