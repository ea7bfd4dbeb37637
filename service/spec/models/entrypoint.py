"""A model of the user's own code."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from service.spec.base import Entrypoint, UserConfig
from service.spec.dataset_info import DatasetInfo
from service.spec.models.base import ModelSpec, Shape
from service.spec.tasks import Task


class EntrypointSpec(ModelSpec):
    """A module of your own: what a factory returns that takes the shape of a row, the outputs and the task."""

    tasks: ClassVar = (Task.CLASSIFICATION, Task.REGRESSION, Task.AUTOENCODING)
    build: ClassVar = "service.training.entrypoints:build_user_model"

    name: Literal["entrypoint"] = "entrypoint"
    entrypoint: Entrypoint
    config: UserConfig = Field(default={})

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:
        """Return the shapes that the factory's module had when the job was checked."""
        return list(data.tensors)
