"""Reading specs that another version of the service may have stored.

Another version may know other fields or other ranges, so a stored spec is checked again whenever it is read.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from service.errors import OtherVersionError
from service.spec.job import JobSpec


def stored_spec(stored: Mapping[str, object]) -> JobSpec:
    """Return the spec that a job's row holds.

    Raises:
        OtherVersionError: Another version of the service wrote something that this one cannot read.
    """
    try:
        return JobSpec.model_validate(stored)
    except ValidationError as error:
        raise OtherVersionError("the job's spec", wrong_fields(error)) from error


def wrong_fields(error: ValidationError) -> str:
    """Name the first fields of something stored that this version cannot read."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
