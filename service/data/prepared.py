"""Where the prepared data of a job is stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A file of prepared arrays in the artifact store.

    Attributes:
        url: Where it is.
        sha256: Hash of its content; a run refuses a file with another one.
    """

    url: str
    sha256: str
