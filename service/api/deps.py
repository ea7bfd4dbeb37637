# What routes ask for, as Annotated types. The objects live on app.state, put there by app.py.
"""Dependencies of the routes."""

from __future__ import annotations

from typing import Annotated

import optuna
from fastapi import Depends, Path, Request

from service.artifacts import ArtifactStore
from service.db.session import Database


def _database(request: Request) -> Database:
    return request.app.state.database  # type: ignore[no-any-return]


def _storage(request: Request) -> optuna.storages.BaseStorage:
    return request.app.state.storage  # type: ignore[no-any-return]


def _artifacts(request: Request) -> ArtifactStore:
    return request.app.state.artifacts  # type: ignore[no-any-return]


DatabaseDep = Annotated[Database, Depends(_database)]
StorageDep = Annotated[optuna.storages.BaseStorage, Depends(_storage)]
ArtifactsDep = Annotated[ArtifactStore, Depends(_artifacts)]
JobId = Annotated[str, Path(description="Id of a job.", max_length=40, examples=["job-0123456789abcdef"])]
