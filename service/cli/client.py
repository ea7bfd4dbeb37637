"""A thin client of the REST API, for the command line and for scripts.

Methods return the JSON that the API answers with. When the API refuses a request or cannot be reached, they raise
:class:`ApiError`, whose text can be shown to a person.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2

from service.errors import FieldError, ServiceError
from service.states import ENDED_JOB

SUBMIT_TIMEOUT_S: Final = 300.0
"""Longest wait for the answer to a submission, for which the service may try user code or time the arms."""

TIMEOUT_S: Final = 30.0
"""Longest wait for any other answer."""

Answer = dict[str, Any]
"""A JSON object of the API; docs and /openapi.json say what is in it."""


class ApiError(ServiceError):
    """The service refused a request, or could not be reached.

    Attributes:
        status: HTTP status; 0 if there was no answer.
        errors: The fields that are wrong; empty if the problem is another one.
    """

    code = "api_error"

    def __init__(self, status: int, detail: str, errors: Iterable[FieldError] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = tuple(errors)


class Client:
    """A connection to one service, such as ``http://127.0.0.1:8000``. Every method may raise :class:`ApiError`."""

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

    def submit(self, spec: Mapping[str, object], idempotency_key: str | None = None) -> Answer:
        """Queue a job and return it. With a key, sending the same spec again returns the same job."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._json("POST", "/v1/jobs", json=spec, headers=headers, timeout=SUBMIT_TIMEOUT_S)

    def estimate(self, spec: Mapping[str, object]) -> Answer:
        """Return what a job would do and cost, without queueing it."""
        return self._json("POST", "/v1/jobs", json=spec, params={"dry_run": "true"}, timeout=SUBMIT_TIMEOUT_S)

    def extend(self, job_id: str, more: Mapping[str, object]) -> Answer:
        """Add trials, seeds or seconds to a job that has succeeded, and return it."""
        wrong = [
            FieldError(name, value, "must be a finite number", code="out_of_range")
            for name, value in more.items()
            if isinstance(value, float) and not math.isfinite(value)  # JSON has no such number
        ]
        if wrong:
            raise ApiError(0, "a number is not finite", wrong)
        return self._json("POST", f"{_path(job_id)}/extend", json=more)

    def job(self, job_id: str) -> Answer:
        """Return a job with its arms."""
        return self._json("GET", _path(job_id))

    def jobs(self, state: str | None = None) -> Iterator[Answer]:
        """Yield the jobs, newest first: all of them, or those in one state."""
        return self._items("/v1/jobs", {"state": state} if state else {})

    def delete(self, job_id: str) -> None:
        """Delete a job with its trials and files. A running job must be cancelled first."""
        self._send("DELETE", _path(job_id))

    def cancel(self, job_id: str) -> Answer:
        """Cancel a job and return it. Its worker stops a moment later."""
        return self._json("POST", f"{_path(job_id)}/cancel")

    def recommendation(self, job_id: str) -> Answer:
        """Return the recommendation of a job that has succeeded."""
        return self._json("GET", f"{_path(job_id)}/recommendation")

    def export(self, job_id: str, fmt: str) -> bytes:
        """Return the recommendation of a job as a file. A zip with a large dataset takes minutes to pack."""
        return self._send("GET", f"{_path(job_id)}/export", params={"format": fmt}, timeout=None).content

    def report(self, job_id: str) -> bytes:
        """Return the HTML report of a job that has succeeded."""
        return self._send("GET", f"{_path(job_id)}/report").content

    def upload(
        self, file: str | Path, fmt: str | None = None, reading: Mapping[str, object] | None = None
    ) -> tuple[Answer, bool]:
        """Upload a file as a dataset.

        Args:
            file: A path. Or a URL with ``://``: the service then reads the file itself.
            fmt: Format of the file; None to tell it from the name's ending.
            reading: How to read a table, such as ``{"decimal": ","}``; what is left out is found by the service.

        Returns:
            The dataset, and whether it is new.

        Raises:
            OSError: The file cannot be read.
        """
        query: dict[str, Any] = {**(reading or {}), **({"format": fmt} if fmt else {})}
        if isinstance(file, str) and "://" in file:
            response = self._send("POST", "/v1/datasets", params=query | {"url": file}, timeout=None)
        else:
            query["filename"] = Path(file).name[-100:]
            with Path(file).open("rb") as content:
                response = self._send("POST", "/v1/datasets", params=query, content=content, timeout=None)
        return self._object(response), response.status_code == HTTPStatus.CREATED

    def datasets(self) -> Iterator[Answer]:
        """Yield the uploaded datasets, newest first."""
        return self._items("/v1/datasets", {})

    def dataset(self, dataset_id: str) -> Answer:
        """Return an uploaded dataset with its columns."""
        return self._json("GET", _path(dataset_id, "datasets"))

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete an uploaded dataset. The service refuses if a job uses it."""
        self._send("DELETE", _path(dataset_id, "datasets"))

    def watch(self, job_id: str, every_s: float = 0.5) -> Iterator[Answer]:
        """Yield the job again and again until it has ended. A service that is away for a moment is waited for."""
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
        """Return whether the service answers."""
        try:
            self._send("GET", "/healthz")
        except ApiError:
            return False
        return True

    def _items(self, path: str, params: Mapping[str, str]) -> Iterator[Answer]:
        """Yield the items of a list, page by page."""
        cursor: dict[str, int] = {}
        while True:
            page = self._json("GET", path, params={**params, **cursor, "limit": 200})
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def _json(self, method: str, path: str, **options: Any) -> Answer:
        return self._object(self._send(method, path, **options))

    def _object(self, response: httpx2.Response) -> Answer:
        answer = _object_in(response)
        if answer is None:
            raise ApiError(response.status_code, f"the server at {self.url} is not this service; check the URL")
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise ApiError(0, f"cannot reach {self.url}: {error}") from error
        if not response.is_success:
            raise _refusal(response)
        return response


def without_password(text: str) -> str:
    """Return a text that may have a URL in it without the URL's password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)  # up to the last @, because a password may have some


def _object_in(response: httpx2.Response) -> Answer | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _refusal(response: httpx2.Response) -> ApiError:
    """Read a problem document. A proxy or a stranger may have answered, so every part of it may be missing."""
    problem = _object_in(response) or {}
    detail, errors = problem.get("detail"), problem.get("errors")
    return ApiError(
        response.status_code,
        detail if isinstance(detail, str) else f"{response.status_code} {response.reason_phrase}",
        [_field_error(item) for item in errors if isinstance(item, dict)] if isinstance(errors, list) else (),
    )


def _field_error(item: Answer) -> FieldError:
    hint = item.get("hint")
    return FieldError(
        field=str(item.get("field", "")),
        value=item.get("value"),
        message=str(item.get("message", "is wrong")),
        hint=None if hint is None else str(hint),
        code=str(item.get("code", "invalid")),
    )


def _path(identity: str, kind: str = "jobs") -> str:
    if not identity.strip("."):  # "." and ".." would lead to another path
        raise ApiError(404, f"there is no {kind.removesuffix('s')} {identity!r}")
    return f"/v1/{kind}/{quote(identity, safe='', errors='replace')}"
