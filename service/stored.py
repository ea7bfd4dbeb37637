"""Reading specs that another version of the service may have stored.

Another version may know other fields or other ranges, so a stored spec is checked again whenever it is read.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.spec.base import read_stored
from service.spec.job import JobSpec


def stored_spec(stored: Mapping[str, object]) -> JobSpec:
    """Return the spec that a job's row holds.

    Raises:
        OtherVersionError: Another version of the service wrote something that this one cannot read.
    """
    return read_stored(JobSpec, stored, "the job's spec")
