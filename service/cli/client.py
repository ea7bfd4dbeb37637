# A thin client of the REST API, for the command line and for scripts. Answers are the API's own JSON; problems become
# ApiError with their text.
"""HTTP client of the service."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2

from service.errors import ServiceError
from service.states import ENDED_JOB

SUBMIT_TIMEOUT_S: Final = 300.0
"""A submission may try user code, and a dry run time the arms, within limits that the service has."""

TIMEOUT_S: Final = 30.0
"""Longest wait for an answer."""


class ApiError(ServiceError):
    """The service refused a request, or could not be reached.

    Attributes:
        status: HTTP status; 0 if there was no answer.
        errors: The fields that are wrong, as in the problem document.
    """

    code = "api_error"

    def __init__(self, status: int, detail: str, errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = errors or []


class Client:
    """Talks to one service.

    Args:
        url: Its base URL, such as ``http://127.0.0.1:8000``.

    Every method raises :class:`ApiError` when the service refuses or cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = without_password(url.rstrip("/"))
        try:
            self._http = httpx2.Client(base_url=url.rstrip("/"), timeout=TIMEOUT_S)
        except httpx2.InvalidURL as error:
            raise ApiError(0, f"cannot reach {self.url}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    def submit(self, spec: Mapping[str, Any], idempotency_key: str | None = None) -> dict[str, Any]:
        """Queue a job and return it."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._json("POST", "/v1/jobs", json=spec, headers=headers, timeout=SUBMIT_TIMEOUT_S)

    def estimate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a job would do and cost; nothing is queued."""
        query = {"dry_run": "true"}
        return self._json("POST", "/v1/jobs", json=spec, params=query, timeout=SUBMIT_TIMEOUT_S)

    def extend(self, job_id: str, more: Mapping[str, Any]) -> dict[str, Any]:
        """Add trials, seeds or seconds to a job that has succeeded, and return it."""
        wrong = [
            {"field": name, "value": value, "message": "must be a finite number"}  # which JSON cannot say
            for name, value in more.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        if wrong:
            raise ApiError(0, "a number is not finite", wrong)
        return self._json("POST", f"{_path(job_id)}/extend", json=more)

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job with its arms."""
        return self._json("GET", _path(job_id))

    def jobs(self, state: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the jobs, the newest first; of one state if it is given."""
        return self._items("/v1/jobs", {"state": state} if state else {})

    def delete(self, job_id: str) -> None:
        """Delete a job that does not run, with its trials and files."""
        self._send("DELETE", _path(job_id))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job."""
        return self._json("POST", f"{_path(job_id)}/cancel")

    def recommendation(self, job_id: str) -> dict[str, Any]:
        """Return the recommendation of a job that has succeeded."""
        return self._json("GET", f"{_path(job_id)}/recommendation")

    def export(self, job_id: str, fmt: str) -> bytes:
        """Return the content of an export; a zip of a large dataset takes minutes to pack."""
        return self._send("GET", f"{_path(job_id)}/export", params={"format": fmt}, timeout=None).content

    def report(self, job_id: str) -> bytes:
        """Return the HTML report of a job that has succeeded."""
        return self._send("GET", f"{_path(job_id)}/report").content

    def upload(self, file: str | Path, fmt: str | None = None) -> tuple[dict[str, Any], bool]:
        """Upload a file; return the dataset, and whether it is new. OSError: the file cannot be read.

        Text with ``://`` is a URL, from which the service reads the file itself.
        """
        query = {"format": fmt} if fmt else {}
        if isinstance(file, str) and "://" in file:
            response = self._send("POST", "/v1/datasets", params=query | {"url": file}, timeout=None)
        else:
            query["filename"] = Path(file).name[-100:]
            with Path(file).open("rb") as content:
                response = self._send("POST", "/v1/datasets", params=query, content=content, timeout=None)
        dataset: dict[str, Any] = response.json()
        return dataset, response.status_code == HTTPStatus.CREATED

    def datasets(self) -> Iterator[dict[str, Any]]:
        """Yield the uploaded datasets, the newest first."""
        return self._items("/v1/datasets", {})

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete an uploaded dataset that no job uses."""
        self._send("DELETE", _path(dataset_id, "datasets"))

    def watch(self, job_id: str, every_s: float = 0.5) -> Iterator[dict[str, Any]]:
        """Yield the job again and again, the last time when it has ended; bear a service that is away for a moment."""
        answered = time.monotonic()
        while True:
            try:
                job = self.job(job_id)
            except ApiError as error:
                away = error.status in (0, 503) and time.monotonic() - answered < TIMEOUT_S
                if not away:
                    raise
            else:
                answered = time.monotonic()
                yield job
                if job["state"] in ENDED_JOB:
                    return
            time.sleep(every_s)

    def is_up(self) -> bool:
        """Tell whether the service answers."""
        try:
            self._send("GET", "/healthz")
        except ApiError:
            return False
        return True

    def _items(self, path: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what a list holds, page by page."""
        cursor: dict[str, Any] = {}
        while True:
            page = self._json("GET", path, params={**params, **cursor, "limit": 200})
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = self._send(method, path, **options)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ApiError(response.status_code, f"what answers at {self.url} is not this service")
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise ApiError(0, f"cannot reach {self.url}: {error}") from error
        if response.is_success:
            return response
        try:
            problem = response.json()
            raise ApiError(response.status_code, problem["detail"], problem["errors"])
        except (ValueError, KeyError, TypeError) as error:
            raise ApiError(response.status_code, f"{response.status_code} {response.reason_phrase}") from error


def without_password(text: str) -> str:
    """Return text with a URL in it, as an error or a log may show it."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)  # to the last @: a password may have some


def _path(identity: str, kind: str = "jobs") -> str:
    if not identity.strip("."):  # would name another path
        raise ApiError(404, f"there is no {kind.removesuffix('s')} {identity!r}")
    return f"/v1/{kind}/{quote(identity, safe='', errors='replace')}"
