"""What a submission reads and writes."""

from __future__ import annotations

from dataclasses import dataclass

from service.artifacts import ArtifactStore
from service.db.session import Database
from service.user_code.probe import UserCode


@dataclass(frozen=True, slots=True)
class Context:
    """What a submission reads and writes.

    Attributes:
        db: The ledger's database.
        artifacts: Has the files of earlier jobs, and gets those of the new one.
        user_code: Tries models and datasets of the user's own code.
    """

    db: Database
    artifacts: ArtifactStore
    user_code: UserCode
