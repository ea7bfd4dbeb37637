"""Every error that the service raises on purpose.

    ServiceError
    ├── InvalidSpecError(ValueError)      a field of a request is wrong
    ├── InvalidFileError(ValueError)      an uploaded file cannot be used
    ├── FileTooLargeError(ValueError)     an uploaded file is over the limit
    ├── UnauthorizedError(PermissionError) the request has no valid API key
    ├── ForbiddenError(PermissionError)   the operator has not allowed it
    │   └── ScopeError                    the scope of the API key is too small
    ├── NotFoundError(LookupError)        no such job, trial, ...
    ├── ConflictError                     the state of the job does not allow it
    │   └── OtherVersionError             another version stored it, and this one cannot read it
    ├── IdempotencyConflictError          the key was used with another body
    ├── TooManyRequestsError              the sender has sent too many requests
    │   └── QueueFullError                    too many jobs wait already
    ├── UnavailableError                  it cannot be answered now
    │   └── DatabaseReplacedError         the database is not the one that the process began with
    ├── SlowBodyError                     the body of a request came too slowly
    ├── StorageFullError                  a disk of the service has no room
    ├── QuotaExceededError                the project stores as many bytes as it may
    ├── EngineLostError                   the processes of an engine have died: another try needs new ones
    ├── OutdatedWorkerError               the service was updated while a worker ran: only a new worker can go on
    ├── LeaseLostError                    another worker owns the job now: write nothing
    ├── BackupError                       a backup cannot be made, read or restored
    ├── DatabaseVersionError              the tables of the database are those of another version
    └── JobFailedError                    the job cannot continue; the message becomes its cause

A ``code`` is stable, so clients may switch on it. api/problems.py decides which HTTP status an error has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from warpadam.errors import field_text

MAX_VALUE_LENGTH: Final = 200
"""Characters of a bad name or value that an error repeats."""


def shortened(text: str) -> str:
    """Return ``text``, cut if it is longer than ``MAX_VALUE_LENGTH``."""
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."


class ServiceError(Exception):
    """Base of every error of this package."""

    code: ClassVar[str] = "service_error"


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field of a request.

    Attributes:
        field: Dotted path from the top of the body, such as ``budget.steps``.
        value: The value that was given; None if the field is missing.
        message: What is wrong, as a clause that follows the field's name: ``must be at least 1``.
        hint: What to do about it, as a sentence; None if the message says enough.
        code: Stable name of the kind of mistake, for programs to switch on.

    >>> print(FieldError("budget.steps", 0, "must be at least 1"))
    budget.steps: must be at least 1 (got 0)
    >>> print(FieldError("model", None, "is required", "GET /v1/models lists the models.", "missing"))
    model: is required. GET /v1/models lists the models.
    """

    field: str
    value: object
    message: str
    hint: str | None = None
    code: str = "invalid"

    def __str__(self) -> str:
        return field_text(shortened(self.field), self.value, self.message, self.hint)


def conflict(field: str, value: object, message: str, hint: str | None = None) -> FieldError:
    """Return the error of a field that does not fit together with another one."""
    return FieldError(field, value, message, hint, "conflict")


class InvalidSpecError(ServiceError, ValueError):
    """At least one field of a request is wrong."""

    code = "invalid_spec"

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = errors


class InvalidFileError(ServiceError, ValueError):
    """An uploaded file cannot be used. The message names the row and column if it can."""

    code = "invalid_file"


class FileTooLargeError(ServiceError, ValueError):
    """An uploaded file has more bytes than the service accepts."""

    code = "file_too_large"


class UnauthorizedError(ServiceError, PermissionError):
    """The request has no API key, or one that is wrong, expired or revoked."""

    code = "unauthorized"


class ForbiddenError(ServiceError, PermissionError):
    """The operator has not allowed it. The message names the setting."""

    code = "forbidden"


class ScopeError(ForbiddenError):
    """The API key is valid, but its scope does not include the request.

    Attributes:
        needed: The scope that would.
    """

    code = "insufficient_scope"

    def __init__(self, detail: str, needed: str) -> None:
        super().__init__(detail)
        self.needed = needed


class NotFoundError(ServiceError, LookupError):
    """The named thing does not exist."""

    code = "not_found"


class ConflictError(ServiceError):
    """The state of a job or dataset does not allow the request."""

    code = "conflict"


class OtherVersionError(ConflictError):
    """Another version or installation of the service stored something that this one cannot read."""

    def __init__(self, what: str, wrong: object) -> None:
        super().__init__(f"this version of the service cannot follow {what}, which another one has stored: {wrong}")


class IdempotencyConflictError(ServiceError):
    """The Idempotency-Key was used before, with another body."""

    code = "idempotency_key_reused"


class TooManyRequestsError(ServiceError):
    """The sender has sent too many requests.

    Attributes:
        retry_after_s: Seconds after which it may send the next one.
    """

    code = "rate_limited"

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class QueueFullError(TooManyRequestsError):
    """As many jobs wait as the operator allows."""

    code = "queue_full"


class UnavailableError(ServiceError):
    """The request is valid, but cannot be answered now."""

    code = "unavailable"


class DatabaseReplacedError(UnavailableError):
    """The database is not the one that this process began with: it was deleted, or replaced by another one."""

    code = "database_replaced"


class SlowBodyError(ServiceError):
    """The body of a request stalled, or came too slowly."""

    code = "request_timeout"


class StorageFullError(ServiceError):
    """A disk of the service has no room. The message names it."""

    code = "storage_full"


class QuotaExceededError(ServiceError):
    """The project stores as many bytes as the operator allows."""

    code = "quota_exceeded"


class EngineLostError(ServiceError):
    """Processes that an engine needs for all of its runs have died. It starts new ones when it is used again."""

    code = "engine_lost"


class OutdatedWorkerError(ServiceError):
    """The service or its libraries were updated while a worker ran.

    Args:
        others: The versions that a new slot has instead of those of the worker.
    """

    code = "outdated_worker"

    def __init__(self, others: str) -> None:
        super().__init__(f"the service was updated while this worker ran, and has {others}: start the worker again")


class LeaseLostError(ServiceError):
    """Another worker owns the job now; this one must write nothing more about it."""

    code = "lease_lost"


class BackupError(ServiceError):
    """A backup cannot be made, read or restored."""

    code = "backup"


class DatabaseVersionError(ServiceError):
    """The tables of the database are those of another version, and this one cannot use them as they are."""

    code = "database_version"


class JobFailedError(ServiceError):
    """The job cannot continue. The message is stored as its cause."""

    code = "job_failed"
