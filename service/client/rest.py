"""A thin client of the REST API, for the command line, for :func:`warptune.tune` and for scripts.

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit({"dataset": {"name": "wine"}, "model": {"name": "mlp"}})
        *_, ended = client.watch(job["id"])
        print(client.recommendation(job["id"]).reason)

Methods return the JSON that the API answers with; answers.py has its types. When the API refuses a request or cannot be
reached, they raise :class:`ApiError`, whose text can be shown to a person.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import httpx2

from service.client.answers import Dataset, DatasetSummary, Estimate, Job, JobSummary, Trial
from service.errors import FieldError, ServiceError
from service.states import ENDED_JOB

if TYPE_CHECKING:
    from service.result.job_result import JobResult

SUBMIT_TIMEOUT_S: Final = 300.0
"""Longest wait for the answer to a submission, for which the service may try user code or time the arms."""

TIMEOUT_S: Final = 30.0
"""Longest wait for any other answer."""

RETRY_S: Final = 5.0
"""How long a request is repeated unless the caller says otherwise."""

LOST: Final = (httpx2.NetworkError, httpx2.RemoteProtocolError)
"""Errors of a request that the service may have answered, but whose answer did not arrive."""

WAITS_S: Final = (0.1, 2.0)
"""The first pause before a request is repeated, and the longest. Each pause is twice as long as the one before."""


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
    """A connection to one service. Every method may raise :class:`ApiError`.

    A request that did not reach the service, or that it cannot answer now (status 503), is sent again with growing
    pauses. A request whose answer was lost is sent again if that has no second effect.

    Args:
        url: URL of the service, such as ``http://127.0.0.1:8000``.
        retry_s: Seconds for which a request is repeated; 0 sends it once.
    """

    def __init__(self, url: str, retry_s: float = RETRY_S) -> None:
        self.url = without_password(url.rstrip("/"))
        self._retry_s = retry_s
        try:
            self._http = httpx2.Client(base_url=url.rstrip("/"), timeout=TIMEOUT_S)
        except httpx2.InvalidURL as error:
            raise ApiError(0, f"cannot reach {self.url}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def submit(self, spec: Mapping[str, object], idempotency_key: str | None = None) -> Job:
        """Queue a job and return it.

        Args:
            spec: The spec; docs/jobs.md has its fields.
            idempotency_key: Sending the same spec again with the same key returns the same job. None makes a key for
                this call.
        """
        job: Job = self._json("POST", "/v1/jobs", json=spec, headers=_key(idempotency_key), timeout=SUBMIT_TIMEOUT_S)
        return job

    def estimate(self, spec: Mapping[str, object]) -> Estimate:
        """Return what a job would do and cost, without queueing it."""
        params = {"dry_run": "true"}
        plan: Estimate = self._json("POST", "/v1/jobs", json=spec, params=params, timeout=SUBMIT_TIMEOUT_S)
        return plan

    def extend(self, job_id: str, more: Mapping[str, object], idempotency_key: str | None = None) -> Job:
        """Add ``trials``, ``seeds`` or ``max_seconds`` to a job that has succeeded, and return it."""
        wrong = [
            FieldError(name, value, "must be a finite number", code="out_of_range")
            for name, value in more.items()
            if isinstance(value, float) and not math.isfinite(value)  # JSON has no such number
        ]
        if wrong:
            raise ApiError(0, "a number is not finite", wrong)
        job: Job = self._json("POST", f"{_path(job_id)}/extend", json=more, headers=_key(idempotency_key))
        return job

    def job(self, job_id: str) -> Job:
        """Return a job with its arms."""
        return self._job(job_id, self._retry_s)

    def jobs(self, state: str | None = None, name: str | None = None) -> Iterator[JobSummary]:
        """Yield the jobs, newest first: all of them, or those in one state or with one name."""
        wanted = {"state": state, "name": name}
        return self._items("/v1/jobs", {field: value for field, value in wanted.items() if value})

    def trials(self, job_id: str) -> Iterator[Trial]:
        """Yield the trials of a job in the order of their numbers."""
        return self._items(f"{_path(job_id)}/trials", {})

    def delete(self, job_id: str) -> None:
        """Delete a job with its trials and files. A running job must be cancelled first."""
        self._send("DELETE", _path(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it. Its worker stops a moment later."""
        job: Job = self._json("POST", f"{_path(job_id)}/cancel")
        return job

    def retry(self, job_id: str, idempotency_key: str | None = None) -> Job:
        """Run a failed or cancelled job again and return it. Its finished trials are kept."""
        job: Job = self._json("POST", f"{_path(job_id)}/retry", headers=_key(idempotency_key))
        return job

    def recommendation(self, job_id: str) -> JobResult:
        """Return the result of a job that has succeeded.

        Raises:
            OtherVersionError: The service has a version whose answer this one cannot read.
        """
        from service.result.job_result import JobResult

        return JobResult.from_json(self._json("GET", f"{_path(job_id)}/recommendation"))

    def export(self, job_id: str, fmt: str) -> bytes:
        """Return the recommendation of a job as a file. A zip with a large dataset takes minutes to pack."""
        return self._send("GET", f"{_path(job_id)}/export", params={"format": fmt}, timeout=None).content

    def report(self, job_id: str) -> bytes:
        """Return the HTML report of a job that has succeeded."""
        return self._send("GET", f"{_path(job_id)}/report").content

    def upload(
        self, file: str | Path, fmt: str | None = None, reading: Mapping[str, object] | None = None
    ) -> tuple[Dataset, bool]:
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
        dataset: Dataset = self._object(response)
        return dataset, response.status_code == HTTPStatus.CREATED

    def datasets(self) -> Iterator[DatasetSummary]:
        """Yield the uploaded datasets, newest first."""
        return self._items("/v1/datasets", {})

    def dataset(self, dataset_id: str) -> Dataset:
        """Return an uploaded dataset with its columns."""
        dataset: Dataset = self._json("GET", _path(dataset_id, "datasets"))
        return dataset

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete an uploaded dataset. The service refuses if a job uses it."""
        self._send("DELETE", _path(dataset_id, "datasets"))

    def watch(self, job_id: str, every_s: float = 0.5) -> Iterator[Job]:
        """Yield the job again and again until it has ended. A service that is away for a moment is waited for."""
        while True:
            job = self._job(job_id, TIMEOUT_S)
            yield job
            if job["state"] in ENDED_JOB:
                return
            time.sleep(every_s)

    def is_up(self) -> bool:
        """Return whether the service answers."""
        try:
            self._send("GET", "/healthz", retry_s=0)
        except ApiError:
            return False
        return True

    def _items(self, path: str, params: Mapping[str, str]) -> Iterator[Any]:
        """Yield the items of a list, page by page."""
        cursor: dict[str, int] = {}
        while True:
            page = self._json("GET", path, params={**params, **cursor, "limit": 200})
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def _job(self, job_id: str, retry_s: float) -> Job:
        job: Job = self._json("GET", _path(job_id), retry_s=retry_s)
        return job

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return self._object(self._send(method, path, **options))

    def _object(self, response: httpx2.Response) -> Any:
        answer = _object_in(response)
        if answer is None:
            raise ApiError(response.status_code, f"the server at {self.url} is not this service; check the URL")
        return answer

    def _send(
        self, method: str, path: str, *, retry_s: float | None = None, content: IO[bytes] | None = None, **options: Any
    ) -> httpx2.Response:
        """Send a request until it is answered; see the class for when it is repeated."""
        until = time.monotonic() + (self._retry_s if retry_s is None else retry_s)
        is_repeatable = method == "GET" or "Idempotency-Key" in options.get("headers", {})
        wait_s, longest_s = WAITS_S
        while True:
            if content is not None:
                content.seek(0)
                options["content"] = content
            try:
                return self._send_once(method, path, options)
            except ApiError as error:
                cause, is_busy = error.__cause__, error.status == HTTPStatus.SERVICE_UNAVAILABLE
                helps = is_busy or isinstance(cause, httpx2.ConnectError) or (isinstance(cause, LOST) and is_repeatable)
                if not helps or time.monotonic() + wait_s > until:
                    raise
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)

    def _send_once(self, method: str, path: str, options: dict[str, Any]) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise ApiError(0, f"cannot reach {self.url}: {error}") from error
        if not response.is_success:
            raise _refusal(response)
        return response


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}


def without_password(text: str) -> str:
    """Return a text that may have a URL in it without the URL's password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)  # up to the last @, because a password may have some


def _object_in(response: httpx2.Response) -> dict[str, Any] | None:
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


def _field_error(item: Mapping[str, Any]) -> FieldError:
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
