"""From a request to a queued job: checks against the data, plan, files, estimate."""

from __future__ import annotations

from dataclasses import dataclass

from service.artifacts import ArtifactStore
from service.data.reader import Readers
from service.db.session import Database
from service.settings import Settings
from service.user_code.probe import UserCode


@dataclass(frozen=True, slots=True)
class Context:
    """What a submission reads and writes: the ledger, the files of jobs, the user's code and data, the settings.

    ``is_private`` says that the service was started by one program for itself. Other workers of its database may not
    allow that program's code.
    """

    db: Database
    artifacts: ArtifactStore
    user_code: UserCode
    readers: Readers
    settings: Settings
    is_private: bool = False
