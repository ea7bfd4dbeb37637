"""The requests of the API, and how their answers are read. Nothing here is sent: the two clients share it.

A :class:`Call` says what to send and what to make of the answer. :class:`Attempts` says when it is sent again.
"""

from __future__ import annotations

import math
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx2

from service.client.answers import Dataset, Estimate, Job, TrialDetail
from service.errors import FieldError, ServiceError
from service.settings import is_loopback

if TYPE_CHECKING:
    from service.result.compared import JobComparison
    from service.result.job_result import JobResult

Answer = TypeVar("Answer")

SUBMIT_TIMEOUT_S: Final = 300.0
"""Longest wait for the answer to a submission, for which the service may try user code or time the arms."""

TIMEOUT_S: Final = 30.0
"""Longest wait for any other answer."""

RETRY_S: Final = 5.0
"""How long a request is repeated unless the caller says otherwise."""

LOST: Final = (httpx2.NetworkError, httpx2.RemoteProtocolError)
"""Errors of a request that the service may have answered, but whose answer did not arrive."""

LONGEST_WAIT_S: Final = 60.0
"""How long a request is repeated at least that the service asks to send again later (``Retry-After``)."""

WAITS_S: Final = (0.1, 2.0)
"""The first pause before a request is repeated, and the longest. Each pause is twice as long as the one before."""


API_KEY: Final = "WARPTUNE_API_KEY"
"""Environment variable with the key that clients send, unless they are given one."""


BUSY: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Statuses of requests that the service did not act on, and would answer later."""


class ApiError(ServiceError):
    """The service refused a request, or could not be reached.

    Attributes:
        status: HTTP status; 0 if there was no answer.
        errors: The fields that are wrong; empty if the problem is another one.
        retry_after_s: Seconds after which the service wants the request again; 0 if it does not say.
    """

    code = "api_error"

    def __init__(self, status: int, detail: str, errors: Iterable[FieldError] = (), retry_after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s


class ItemPage(TypedDict):
    """A page of a list."""

    items: list[Any]
    next_cursor: int | None


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """A request and how its answer is read.

    Attributes:
        method: Of HTTP.
        path: Below the URL of the service.
        read: Makes the result of the answer.
        options: What else httpx2 is told: parameters, JSON, headers, time limit.
        file: A local file that is the body; None for no file.
        repeatable: Whether sending it again has no second effect, although it is a POST without a key.
    """

    method: str
    path: str
    read: Callable[[httpx2.Response], Answer]
    options: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    repeatable: bool = False

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again after its answer was lost, without a second effect."""
        return self.repeatable or self.method == "GET" or "Idempotency-Key" in self.options.get("headers", {})


class Attempts:
    """Says when a call is sent again: see :class:`service.client.rest.Client`."""

    def __init__(self, call: Call[Any], retry_s: float) -> None:
        self._is_repeatable = call.is_repeatable
        self._until = time.monotonic() + retry_s
        self._until_if_asked = max(self._until, time.monotonic() + LONGEST_WAIT_S) if retry_s else self._until
        self._wait_s = WAITS_S[0]

    def pause_after(self, error: ApiError) -> float:
        """Return the seconds to wait before the call is sent again.

        Raises:
            ApiError: The error itself, if it would not help or there is no time left.
        """
        cause, is_busy = error.__cause__, error.status in BUSY
        was_lost = isinstance(cause, LOST) and self._is_repeatable
        helps = is_busy or isinstance(cause, httpx2.ConnectError) or was_lost
        pause = max(self._wait_s, error.retry_after_s)
        until = self._until_if_asked if error.retry_after_s else self._until
        if not helps or time.monotonic() + pause > until:
            raise error
        self._wait_s = min(2 * pause, WAITS_S[1])
        return pause


def submit(spec: Mapping[str, object], idempotency_key: str | None) -> Call[Job]:
    """Queue a job."""
    options = {"json": _finite(spec), "headers": _key(idempotency_key), "timeout": SUBMIT_TIMEOUT_S}
    return Call("POST", "/v1/jobs", _read_item, options)


def estimate(spec: Mapping[str, object]) -> Call[Estimate]:
    """Ask what a job would do and cost."""
    options = {"json": _finite(spec), "params": {"dry_run": "true"}, "timeout": SUBMIT_TIMEOUT_S}
    return Call("POST", "/v1/jobs", lambda answer: read_json(answer, "arms"), options, repeatable=True)


def extend(job_id: str, more: Mapping[str, object], idempotency_key: str | None) -> Call[Job]:
    """Add to a job that has succeeded."""
    options = {"json": _finite(more), "headers": _key(idempotency_key)}
    return Call("POST", f"{job_path(job_id)}/extend", _read_item, options)


def _finite(body: Mapping[str, object]) -> Mapping[str, object]:
    """Return a body whose numbers JSON can hold.

    Raises:
        ApiError: One is infinite or not a number. It names the field.
    """
    if wrong := [*_not_finite(body, "")]:
        raise ApiError(0, "a number is not finite", wrong)
    return body


def _not_finite(value: object, field: str) -> Iterator[FieldError]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _not_finite(item, f"{field}.{name}" if field else str(name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{field}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield FieldError(field, value, "must be a finite number", code="out_of_range")


def job(job_id: str) -> Call[Job]:
    """Ask for a job."""
    return Call("GET", job_path(job_id), _read_item)


def cancel(job_id: str) -> Call[Job]:
    """Cancel a job."""
    return Call("POST", f"{job_path(job_id)}/cancel", _read_item, repeatable=True)


def ask(verb: Literal["stop", "pause", "resume"], job_id: str) -> Call[Job]:
    """Stop, pause or resume a job."""
    return Call("POST", f"{job_path(job_id)}/{verb}", _read_item, repeatable=True)


def retry(job_id: str, idempotency_key: str | None) -> Call[Job]:
    """Run a failed or cancelled job again."""
    return Call("POST", f"{job_path(job_id)}/retry", _read_item, {"headers": _key(idempotency_key)})


def delete(job_id: str) -> Call[None]:
    """Delete a job."""
    return Call("DELETE", job_path(job_id), _read_nothing)


def recommendation(job_id: str) -> Call[JobResult]:
    """Ask for the result of a job."""
    from service.result.job_result import JobResult

    return Call("GET", f"{job_path(job_id)}/recommendation", lambda answer: JobResult.from_json(read_json(answer)))


def compare(job_ids: Sequence[str]) -> Call[JobComparison]:
    """Ask how jobs compare."""
    from service.result.compared import JobComparison

    def read(answer: httpx2.Response) -> JobComparison:
        return JobComparison.model_validate(read_json(answer, "jobs"))

    return Call("GET", "/v1/jobs/compare", read, {"params": {"ids": ",".join(job_ids)}})


def export(job_id: str, fmt: str) -> Call[bytes]:
    """Ask for the recommendation of a job as a file."""
    return Call("GET", f"{job_path(job_id)}/export", _read_bytes, {"params": {"format": fmt}, "timeout": None})


def report(job_id: str) -> Call[bytes]:
    """Ask for the report of a job."""
    return Call("GET", f"{job_path(job_id)}/report", _read_bytes)


def upload(file: str | Path, fmt: str | None, reading: Mapping[str, object] | None) -> Call[tuple[Dataset, bool]]:
    """Upload a dataset."""
    query: dict[str, Any] = {**(reading or {}), **({"format": fmt} if fmt else {})}
    local = None if isinstance(file, str) and "://" in file else Path(file)
    query |= {"url": file} if local is None else {"filename": name_of(local)[-100:]}

    def read(answer: httpx2.Response) -> tuple[Dataset, bool]:
        return _read_item(answer), answer.status_code == HTTPStatus.CREATED

    return Call("POST", "/v1/datasets", read, {"params": query, "timeout": None}, local)


def name_of(file: str | Path) -> str:
    r"""Return the name of a file as text, also where the locale does not know its characters.

    >>> import os
    >>> name_of("data/" + os.fsdecode(b"caf\xe9.csv"))
    'caf\ufffd.csv'
    """
    return os.fsencode(Path(file).name).decode(errors="replace")


def dataset(dataset_id: str) -> Call[Dataset]:
    """Ask for an uploaded dataset."""
    return Call("GET", _path(dataset_id, "datasets"), _read_item)


def delete_dataset(dataset_id: str) -> Call[None]:
    """Delete an uploaded dataset."""
    return Call("DELETE", _path(dataset_id, "datasets"), _read_nothing)


def catalog() -> Call[dict[str, Any]]:
    """Ask for the names that a job may use."""
    return Call("GET", "/v1/catalog", read_json)


def health() -> Call[None]:
    """Ask whether the service answers."""
    return Call("GET", "/healthz", _read_nothing)


def jobs(state: str | None, name: str | None, tags: Sequence[str]) -> Call[ItemPage]:
    """Ask for jobs, the newest first."""
    wanted = {"state": state, "name": name, "tag": list(tags)}
    return _listed("/v1/jobs", {field: value for field, value in wanted.items() if value})


def trials(job_id: str) -> Call[ItemPage]:
    """Ask for the trials of a job."""
    return _listed(f"{job_path(job_id)}/trials")


def trial(job_id: str, number: int) -> Call[TrialDetail]:
    """Ask for a trial with its learning curve."""
    return Call("GET", f"{job_path(job_id)}/trials/{number}", read_json)


def events(job_id: str) -> Call[ItemPage]:
    """Ask for the events of a job."""
    return _listed(f"{job_path(job_id)}/events")


def datasets() -> Call[ItemPage]:
    """Ask for the uploaded datasets."""
    return _listed("/v1/datasets")


def audit(**wanted: str | None) -> Call[ItemPage]:
    """Ask for lines of the audit log."""
    return _listed("/v1/audit", {field: value for field, value in wanted.items() if value})


def _listed(path: str, params: Mapping[str, object] | None = None) -> Call[ItemPage]:
    def read(answer: httpx2.Response) -> Any:
        return read_json(answer, "items", "next_cursor")

    return Call("GET", path, read, {"params": {**(params or {}), "limit": 200}})


def page_after(call: Call[ItemPage], page: ItemPage) -> Call[ItemPage] | None:
    """Return the call for the next page of a list; None after the last one."""
    if page["next_cursor"] is None:
        return None
    params = {**call.options["params"], "cursor": page["next_cursor"]}
    return Call(call.method, call.path, call.read, {**call.options, "params": params})


def job_path(job_id: str) -> str:
    """Return the path of a job.

    Raises:
        ApiError: No job can have this id.
    """
    return _path(job_id, "jobs")


def _path(identity: str, kind: str) -> str:
    if not identity.strip("."):  # "." and ".." would lead to another path
        raise ApiError(404, f"there is no {kind.removesuffix('s')} {identity!r}")
    return f"/v1/{kind}/{quote(identity, safe='', errors='replace')}"


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}


def _read_item(response: httpx2.Response) -> Any:
    return read_json(response, "id")


def read_json(response: httpx2.Response, *names: str) -> Any:
    """Return the JSON object of an answer.

    Raises:
        ApiError: It has none, or lacks one of the names that it must have, so another server answered.
    """
    answer = _object_in(response)
    if answer is None or not answer.keys() >= set(names):
        raise stranger(response)
    return answer


def key_header(api_key: str | None) -> dict[str, str]:
    """Return the header that sends a key, or the one of the environment if that is None; an empty key sends none.

    Raises:
        ApiError: The key cannot be one. It is not repeated.
    """
    key = (os.environ.get(API_KEY, "") if api_key is None else api_key).strip()
    if key and not re.fullmatch(r"[!-~]+", key):
        raise ApiError(0, f"the API key must be one word that begins with wt_; look at {API_KEY}")
    return {"Authorization": f"Bearer {key}"} if key else {}


def is_here(url: str) -> bool:
    """Return whether a URL leads to this machine. No proxy could pass on a request to it, and none should see its key.

    Raises:
        httpx2.InvalidURL: It is not a URL.
    """
    return is_loopback(httpx2.URL(url).host)


def stranger(response: httpx2.Response) -> ApiError:
    """Return the error of an answer that is not one of this service."""
    url = without_password(str(response.url))
    return ApiError(response.status_code, f"the server at {url} is not this service; check the URL")


def _read_bytes(response: httpx2.Response) -> bytes:
    if "X-Request-Id" not in response.headers:  # such as the page of a proxy that asks for a password
        raise stranger(response)
    return response.content


def _read_nothing(response: httpx2.Response) -> None:
    del response


def unreachable(url: str, error: Exception) -> ApiError:
    """Return the error of a request that got no answer; the caller raises it from the error of httpx2."""
    why = re.sub(r"\[Errno -?\d+\] ", "", str(error)).rstrip(". ")
    return ApiError(0, f"cannot reach {url}: {why or type(error).__name__}")


def not_set_up(url: str, error: ImportError | ValueError | OSError) -> ApiError:
    """Return the error of a client that httpx2 cannot make, because the environment names a wrong proxy or file."""
    names = "SSL_CERT_FILE and SSL_CERT_DIR" if isinstance(error, OSError) else "HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
    return ApiError(0, f"{unreachable(url, error)}; look at {names}")


def checked(response: httpx2.Response) -> httpx2.Response:
    """Return an answer, unless it is a refusal.

    Raises:
        ApiError: The refusal. A proxy or a stranger may have answered, so every part of the problem may be missing.
    """
    if response.is_success:
        return response
    problem = _object_in(response) or {}
    detail, errors = problem.get("detail"), problem.get("errors")
    raise ApiError(
        response.status_code,
        detail if isinstance(detail, str) else f"{response.status_code} {response.reason_phrase}",
        [_field_error(item) for item in errors if isinstance(item, dict)] if isinstance(errors, list) else (),
        _retry_after_s(response),
    )


def _retry_after_s(response: httpx2.Response) -> float:
    """Return the seconds of ``Retry-After``; 0 without one, and for a date, which only other servers send."""
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdigit() else 0.0


def without_password(text: str) -> str:
    """Return a text that may have a URL in it without the URL's password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)  # up to the last @, because a password may have some


def _object_in(response: httpx2.Response) -> dict[str, Any] | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _field_error(item: Mapping[str, Any]) -> FieldError:
    hint = item.get("hint")
    return FieldError(
        field=str(item.get("field", "")),
        value=item.get("value"),
        message=str(item.get("message", "is wrong")),
        hint=None if hint is None else str(hint),
        code=str(item.get("code", "invalid")),
    )
