# What a row holds as JSON was checked when it was written, by the version of the service that wrote it. Another version
# may know fewer fields or other ranges: reading a row never relies on it being right.
"""Reading what may have been stored by another version of the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from service.errors import OtherVersionError
from service.spec.job import JobSpec


def stored_spec(stored: Mapping[str, Any]) -> JobSpec:
    """Return the spec that a job's row holds.

    Raises:
        OtherVersionError: Another version of the service wrote it, with what this one does not know.
    """
    try:
        return JobSpec.model_validate(stored)
    except ValidationError as error:
        raise OtherVersionError("the job's spec", wrong_fields(error)) from error


def wrong_fields(error: ValidationError) -> str:
    """Return the first fields that are wrong in something that was stored."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
