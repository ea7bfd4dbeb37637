"""A chain of linear layers that reconstructs its input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Len
from pydantic import Field

from service.errors import FieldError
from service.spec.base import Activation, Width
from service.spec.dataset_info import DatasetInfo
from service.spec.models.base import ModelSpec, Shape, linear_shapes
from service.spec.tasks import Task

if TYPE_CHECKING:
    from service.spec.job import JobSpec


class AutoencoderSpec(ModelSpec):
    """A symmetric autoencoder: ``hidden`` down to ``code`` and back up; it reconstructs its standardised input."""

    tasks: ClassVar = (Task.CLASSIFICATION, Task.REGRESSION, Task.AUTOENCODING)
    build: ClassVar = "service.training.networks:build_linear_layers"

    name: Literal["autoencoder"] = "autoencoder"
    hidden: Annotated[list[Width], Len(1, 8)] = Field([96, 48], description="Widths from the input to the code.")
    code: Width = Field(30, description="Width of the code layer.")
    activation: Activation = "tanh"

    def task(self, data: DatasetInfo) -> str:  # noqa: ARG002, D102
        return Task.AUTOENCODING

    def layer_sizes(self, data: DatasetInfo) -> list[int]:
        """Return the widths of the layers.

        >>> from service.data.catalog import DATASETS
        >>> AutoencoderSpec().layer_sizes(DATASETS["digits"])
        [64, 96, 48, 30, 48, 96, 64]
        """
        return [data.features, *self.hidden, self.code, *reversed(self.hidden), data.features]

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:  # noqa: D102
        return linear_shapes(self.layer_sizes(data))

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:  # noqa: D102
        if job.dataset.name is not None and not data.images:
            hint = f"The dataset {job.dataset.name} has no images; choose mlp."
            yield FieldError("model.name", self.name, "needs images if the dataset is a bundled one", hint, "conflict")
